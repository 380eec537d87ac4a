"""YAML in the documentation is what servers and programs take."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import kubesim
from state.manifest_decoding import decode
from tests.contract_files import REPOSITORY
from tests.docs.documents import OURS, document

BLOCKS = [(path, number, block) for path in OURS for number, block in enumerate(document(path).yaml_blocks(), 1)]
HEADER = "apiVersion: gpu.dra.intel.com/v1alpha1\nkind: GpuNodeState\nspec:\n"
DEFINITIONS = sorted((REPOSITORY / "deploy/crd").glob("*.yaml"))


def _server(versions: set[str]) -> kubesim.Cluster:
    """One that serves these."""
    if "resource.k8s.io/v1alpha3" in versions:
        return kubesim.Cluster("1.31", classic=True, seed=1)
    return kubesim.Cluster("1.26" if "resource.k8s.io/v1alpha1" in versions else "1.36", seed=1)


def test_there_are_blocks() -> None:
    assert {path for path, _, _ in BLOCKS} == {"README.md", "doc/USAGE.md"}


@pytest.mark.parametrize(
    ("path", "number", "block"), BLOCKS, ids=[f"{path}-{number}" for path, number, _ in BLOCKS]
)
def test_a_block_is_taken(path: str, number: int, block: str) -> None:
    """The desired state by the programs, a kustomization by what it names, all else by a server."""
    text = HEADER + block if block.startswith("  ") else block
    objects = list(yaml.safe_load_all(text))
    match objects[0]["kind"]:
        case "GpuNodeState":
            assert decode(objects[0], cluster=False).spec is not None
        case "Kustomization":
            assert all((REPOSITORY / Path(*Path(name).parts[1:])).is_dir() for name in objects[0]["resources"])
            known = yaml.safe_load((REPOSITORY / "deploy/base/kustomization.yaml").read_text())["images"]
            assert [(one["name"], one["newTag"]) for one in objects[0]["images"]] == [
                (one["name"], one["newTag"]) for one in known
            ]
        case _:
            server = _server({one["apiVersion"] for one in objects})
            for definition in DEFINITIONS:
                server.load(definition.read_text())
            assert len(server.load(text)) == len(objects)


def test_a_server_refuses_what_is_misspelt() -> None:
    block = next(block for path, _, block in BLOCKS if path == "README.md" and "deviceClassName" in block)
    with pytest.raises(kubesim.Refusal):
        kubesim.Cluster("1.36", seed=1).load(block.replace("deviceClassName", "deviceClass"))


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_kustomization_of_the_readme_builds(tmp_path: Path) -> None:
    """As it is described: beside the repository's directory. All containers get the image that it names."""
    (block,) = (block for path, _, block in BLOCKS if path == "README.md" and "kind: Kustomization" in block)
    (tmp_path / "kustomization.yaml").write_text(block)
    (tmp_path / "intel-gpu-resource-driver").mkdir()
    (tmp_path / "intel-gpu-resource-driver/deploy").symlink_to(REPOSITORY / "deploy")
    command = ("kubectl", "kustomize", str(tmp_path))
    built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    images = {line.split()[-1] for line in built.splitlines() if line.strip().startswith("image:")}
    assert images == {"registry.example.com/intel-gpu-resource-driver:v0.1.0"}
    assert "kind: CustomResourceDefinition" in built
