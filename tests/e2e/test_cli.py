"""The command line on simulated machines: real files, the kernel's answers, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import gpusim
from gpusim.session import laid_out
from reconciler.cli import main
from tests.contract_files import REPOSITORY

pytestmark = [pytest.mark.root, pytest.mark.fuse]

FLEX = "0000-03-00-0-0x56c0"
ADDRESS = "0000:03:00.0"
SEEN = ("--processes", "visible")
"""The simulated procfs has no processes, and so can't tell that all are seen."""

EMPTY = "apiVersion: gpu.dra.intel.com/v1alpha1\nkind: GpuNodeState\n"
TWO_USERS = f"""{EMPTY}spec:
  manualAllocations:
  - name: jupyter
    devices: [{{device: {FLEX}-m4-vf0, memory: 2Gi}}]
  - name: batch
    devices: [{{device: {FLEX}-m4-vf1}}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A simulated machine and the command line looking at it, in this process or as one of its own."""

    machine: gpusim.Machine
    where: Path
    environment: dict[str, str]
    capsys: pytest.CaptureFixture[str]

    def file(self, content: str, name: str = "node.yaml") -> str:
        path = self.where / name
        path.write_text(content)
        return str(path)

    def call(self, *words: str) -> Said:
        self.capsys.readouterr()
        code = main(words)
        out, err = self.capsys.readouterr()
        return Said(code=code, out=out, err=err)

    def popen(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            # A shell has its background jobs ignore SIGINT, and that is inherited.
            ["env", "--default-signal=INT", sys.executable, "-m", "reconciler.cli", *words],
            cwd=REPOSITORY,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def process(self, *words: str, stdin: str = "") -> Said:
        with self.popen(*words) as process:
            out, err = process.communicate(stdin, timeout=60)
        return Said(code=process.returncode, out=out, err=err)

    def vfs(self) -> int:
        return int(self.machine.sysfs.read(f"bus/pci/devices/{ADDRESS}/sriov_numvfs"))


@contextlib.contextmanager
def bench(
    name: str, where: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    machine = gpusim.Machine(gpusim.load_machine(name))
    with laid_out(machine, where / "machine") as variables:
        environment = {**variables, "PROCFS_ROOT": f"{where}/machine/proc", "PCI_IDS": "/nonexistent"}
        # What a simulation leaves out would otherwise come from the real machine.
        for directory in ("dri", "vfio"):
            (where / "machine/dev" / directory).mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            for variable, value in environment.items():
                patch.setenv(variable, value)
            yield Bench(machine=machine, where=where, environment=environment, capsys=capsys)


@pytest.fixture
def flex170(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    with bench("flex170", tmp_path, capsys, monkeypatch) as ready:
        yield ready


@pytest.mark.parametrize("name", gpusim.machine_names())
def test_every_machine_is_discovered_and_its_export_holds(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(name, tmp_path, capsys, monkeypatch) as there:
        listed = there.call("discover", "-o", "json")
        table = there.call("discover", "-o", "wide")
        assert (listed.code, table.code) == (0, 0)
        gpus = json.loads(listed.out)
        assert [gpu["name"] for gpu in gpus] == [line.split()[0] for line in table.out.splitlines()[1:]]
        assert len(gpus) == len(there.machine.spec.gpus)
        exported = there.call("export")
        assert exported.code == 0
        file = there.file(exported.out)
        held = there.call("assert", "-f", file, *SEEN)
        assert (held.code, held.out) == (0, "the machine is as wanted\n")
        plan = there.call("plan", "-f", file, *SEEN)
        assert (plan.code, plan.out) == (0, "nothing to do: the machine is as wanted\n")


def test_from_plan_to_status(flex170: Bench) -> None:
    file = flex170.file(TWO_USERS)
    plan = flex170.call("plan", "-f", file, *SEEN)
    assert plan.code == 2
    assert plan.out.startswith(f"{FLEX} (Flex 170): i915, no VFs → i915, 4 VFs (flex170_m4)\n")
    assert "enable 4 VFs (flex170_m4)\n" in plan.out
    assert flex170.vfs() == 0
    drift = flex170.call("assert", "-f", file, *SEEN, "-o", "json")
    assert drift.code == 2
    assert json.loads(drift.out)["drift"][0]["what"] == FLEX

    applied = flex170.call("apply", "-f", file, *SEEN)
    assert (applied.code, applied.err) == (0, "")
    assert f"{FLEX}  enable 4 VFs (flex170_m4)  done in " in applied.out
    assert "  podman run --device intel.com/gpu=jupyter …\n" in applied.out
    assert flex170.vfs() == 4
    assert sorted(os.listdir(flex170.environment["CDI_ROOT"])) == [
        "intel.com-gpu_alloc-batch.json",
        "intel.com-gpu_alloc-jupyter.json",
    ]

    assert flex170.call("assert", "-f", file, *SEEN).code == 0
    assert flex170.call("plan", "-f", file, *SEEN) == Said(
        code=0, out="nothing to do: the machine is as wanted\n", err=""
    )
    status = flex170.call("status", "-o", "yaml")
    assert (status.code, status.err) == (0, "")
    phases = {item["name"]: item["phase"] for item in yaml.safe_load(status.out)["status"]["allocations"]}
    assert phases == {"batch": "Ready", "jupyter": "Ready"}
    gpu = flex170.call("explain", FLEX)
    assert "VFs:        4/31 flex170_m4\n" in gpu.out
    assert "Used by:    batch, jupyter\n" in gpu.out
    assert "CDI device:  intel.com/gpu=jupyter\n" in flex170.call("explain", "jupyter").out

    exported = flex170.call("export", "-o", "json")
    again = flex170.file(exported.out, "exported.json")
    assert flex170.call("assert", "-f", again, *SEEN).code == 0
    assert [item["name"] for item in json.loads(exported.out)["spec"]["manualAllocations"]] == ["batch", "jupyter"]

    empty = flex170.file(EMPTY, "empty.yaml")
    assert flex170.call("apply", "-f", empty, *SEEN).code == 0
    assert flex170.vfs() == 0
    assert os.listdir(flex170.environment["CDI_ROOT"]) == []


def test_a_plan_foresees_every_step(flex170: Bench) -> None:
    file = flex170.file(f"{TWO_USERS}  - name: vm\n    devices: [{{device: {FLEX}-m4-vf2, kernelDriver: vfio}}]\n")
    plan = json.loads(flex170.call("plan", "-f", file, *SEEN, "-o", "json").out)
    foreseen = plan["devices"][0]["actions"]
    assert "bind VF 2 to vfio-pci" in foreseen
    applied = flex170.call("apply", "-f", file, *SEEN)
    assert applied.code == 0
    begun = [line.removeprefix(f"{FLEX}  ") for line in applied.out.splitlines() if line.startswith(FLEX)]
    done = [line.removesuffix(" …") for line in begun if "  done in " not in line]
    assert sorted(done) == sorted(foreseen)
    assert plan["devices"][0]["then"] == "i915, 4 VFs (flex170_m4), VF 2 on vfio-pci"
    assert (
        json.loads(flex170.call("plan", "-f", file, *SEEN, "-o", "json").out)["devices"][0]["now"]
        == (plan["devices"][0]["then"])
    )


def test_what_waits_is_told(flex170: Bench) -> None:
    flex170.machine.foreign_numvfs(ADDRESS, 2)
    file = flex170.file(TWO_USERS)
    plan = flex170.call("plan", "-f", file, *SEEN, "-o", "json")
    assert plan.code == 2
    forecast = json.loads(plan.out)
    assert [gpu["actions"] for gpu in forecast["devices"]] == [[]]
    assert {item["now"] for item in forecast["allocations"]} == {"Blocked"}
    applied = flex170.call("apply", "-f", file, *SEEN, "-o", "json")
    assert applied.code == 2
    assert json.loads(applied.out)["reached"] is False
    assert json.loads(applied.out)["why"]
    assert flex170.vfs() == 2
    explained = flex170.call("explain", "jupyter", "-f", file, *SEEN)
    assert "Phase:       Blocked\n" in explained.out
    assert "What helps:  end or take back what it waits for" in explained.out


def test_a_failure_is_told_and_undone(flex170: Bench) -> None:
    flex170.machine.add_faults(gpusim.FaultRule(on=gpusim.Operation.WRITE, path="*/sriov_numvfs", error="EIO"))
    applied = flex170.call("apply", "-f", flex170.file(TWO_USERS), *SEEN, "--timeout", "1")
    assert applied.code == 2
    assert f"{FLEX}  enable 4 VFs (flex170_m4)  failed after " in applied.out
    assert "(EIO)" in applied.out
    assert applied.err == ""
    assert flex170.vfs() == 0


def test_a_refusal_is_not_reached_and_takes_nothing_from_others(flex170: Bench) -> None:
    file = flex170.file(f"{TWO_USERS}  - name: greedy\n    devices: [{{device: {FLEX}-m4-vf4}}]\n")
    applied = flex170.call("apply", "-f", file, *SEEN)
    assert applied.code == 2
    assert "VF 4 is out of range" in applied.out
    assert flex170.vfs() == 4
    refused = flex170.call("explain", "greedy")
    assert "What helps:  correct the desired state" in refused.out


def test_an_override_of_no_gpu_is_drift_told_once(flex170: Bench) -> None:
    file = flex170.file(f"{EMPTY}spec: {{overrides: [{{device: 0000-09-00-0-0x56c0, mode: Drain}}]}}\n")
    held = flex170.call("assert", "-f", file, *SEEN, "-o", "yaml")
    assert held.code == 2
    assert [item["what"] for item in yaml.safe_load(held.out)["drift"]] == ["spec.overrides[0].device"]


def test_another_boot_is_noticed(flex170: Bench) -> None:
    flex170.call("apply", "-f", flex170.file(TWO_USERS), *SEEN)
    flex170.machine.reboot()
    status = flex170.call("status")
    assert status.code == 0
    assert "from another boot" in status.err


def test_real_processes(flex170: Bench) -> None:
    discovered = flex170.process("discover")
    assert discovered.code == 0
    assert discovered.err == ""
    assert discovered.out.splitlines()[1].startswith(f"{FLEX}  Flex 170  i915    15.9 GiB  0/31")
    assert "\x1b" not in discovered.out
    assert flex170.process("plan", "-f", "-", *SEEN, stdin=TWO_USERS).code == 2
    applied = flex170.process("apply", "-f", "-", *SEEN, "-o", "json", stdin=TWO_USERS)
    assert applied.code == 0
    assert json.loads(applied.out)["reached"] is True
    assert "enable 4 VFs (flex170_m4)  done in " in applied.err
    assert flex170.process("assert", "-f", "-", *SEEN, stdin=TWO_USERS).code == 0
    assert flex170.process("fly").code == 1


def test_interrupted_it_ends_cleanly(flex170: Bench) -> None:
    write = gpusim.FaultRule(on=gpusim.Operation.WRITE, path="*/sriov_numvfs", delay=2.0)
    flex170.machine.add_faults(write)
    with flex170.popen("apply", "-f", flex170.file(TWO_USERS), *SEEN) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "enable 4 VFs" in line:
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "gpu-reconciler: interrupted\n")
    assert flex170.call("apply", "-f", flex170.file(TWO_USERS), *SEEN).code == 0


def test_a_locale_that_lacks_our_characters(flex170: Bench) -> None:
    flex170.environment["PYTHONIOENCODING"] = "ascii"
    plan = flex170.process("plan", "-f", flex170.file(TWO_USERS), *SEEN)
    assert (plan.code, plan.err) == (2, "")
    assert plan.out.startswith(f"{FLEX} (Flex 170): i915, no VFs \\u2192 i915, 4 VFs (flex170_m4)\n")


def test_where_processes_cant_be_seen_a_person_decides(flex170: Bench) -> None:
    assert flex170.call("apply", "-f", flex170.file(TWO_USERS), *SEEN).code == 0
    empty = flex170.file(EMPTY)
    hidden = ("--processes", "hidden")
    plan = flex170.call("plan", "-f", empty, *hidden)
    assert plan.code == 2
    assert "blocked\n" in plan.out
    assert "--force-release" in plan.out
    assert flex170.call("apply", "-f", empty, *hidden).code == 2
    assert flex170.vfs() == 4
    forced = ("--force-release", "jupyter", "--force-release", "batch")
    assert flex170.call("apply", "-f", empty, *hidden, *forced).code == 0
    assert flex170.vfs() == 0


def test_a_reader_that_has_had_enough(flex170: Bench) -> None:
    with flex170.popen("discover") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_a_port_that_is_taken(flex170: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = flex170.process("run", "-f", flex170.file(EMPTY), "--metrics-listen", listen)
    assert ended == Said(
        code=1, out="", err=f"gpu-reconciler: --metrics-listen: {listen}: Address already in use\n"
    )


def test_the_daemon_keeps_up_with_the_file_and_ends_when_told(flex170: Bench) -> None:
    file = flex170.file(TWO_USERS)
    with flex170.popen("run", "-f", file, *SEEN, "--uevents", "off", "--log-format", "json") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "enable 4 VFs" in json.loads(line)["message"]:
                break
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert flex170.vfs() == 4
