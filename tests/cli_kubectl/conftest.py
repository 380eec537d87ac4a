"""Two nodes of a simulated cluster, and the real kubectl with our plugin on its PATH."""

import contextlib
import gc
import io
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hack.lab.cluster import Lab, Result, opened
from hack.lab.processes import REPOSITORY
from reconciler.cli.kubectl_gpu import main
from tests.cluster.nodes import Node, machine_of

Gpu = Callable[..., Result]


@pytest.fixture(name="lab", scope="module")
def fixture_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    where = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch, opened(where) as lab:
        put_on_path(where / "bin", patch)
        yield lab
    gc.collect()  # what the simulated server left behind is complained of here, not in some later test
    shutil.rmtree(where)


def put_on_path(directory: Path, patch: pytest.MonkeyPatch) -> None:
    """Install the plugin there as pip would; test_entry_point() sees that pip has the same to install."""
    directory.mkdir()
    plugin = directory / "kubectl-gpu"
    plugin.write_text(
        f"#!{sys.executable}\nimport sys\nfrom reconciler.cli.kubectl_gpu import main\nsys.exit(main())\n"
    )
    plugin.chmod(0o755)
    patch.setenv("PYTHONPATH", str(REPOSITORY))
    patch.setenv("PATH", str(directory), prepend=":")


@pytest.fixture(name="gpu", scope="module")
def fixture_gpu(lab: Lab) -> Gpu:
    """``kubectl gpu`` with these words, by the real kubectl."""
    return lambda *words: lab.kubectl("gpu", *words)


@pytest.fixture(name="ask", scope="module")
def fixture_ask(lab: Lab) -> Gpu:
    """The same in this process, half a second faster."""

    def answer(*words: str) -> Result:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = main([*words, "--kubeconfig", str(lab.kubeconfig)])
        return Result(code=code, out=out.getvalue(), err=err.getvalue())

    return answer


@pytest.fixture(name="nodes", scope="module")
def fixture_nodes(lab: Lab) -> dict[str, Node]:
    """Two nodes whose first GPUs have the same name."""
    machines = {
        "node-a": machine_of(lab.where, {"03": "flex170", "04": "flex170", "05": "b60"}),
        "node-b": machine_of(lab.where, {"03": "flex170"}),
    }
    lab.start_controller()
    nodes = {}
    for name, machine in machines.items():
        simulated = lab.add_node(name, machine)
        agent = lab.start_agent(name, "--linger-seconds", "0")
        nodes[name] = Node(lab, name, simulated, agent)
    for node in nodes.values():
        until_well(node)
    return nodes


@pytest.fixture(name="node")
def fixture_node(nodes: dict[str, Node]) -> Iterator[Node]:
    node = nodes["node-a"]
    yield node
    node.wish()
    node.nobody_uses_anything()
    until_well(node)


def until_well(node: Node) -> None:
    """Wait until the node has nothing to do for anybody."""

    def is_well() -> bool:
        status = node.status
        ready = node.condition("Ready").get("status") == "True"
        return ready and not (status.get("allocations") or status.get("withdrawn") or status.get("plan"))

    node.until("well", is_well)
