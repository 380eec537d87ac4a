"""``status`` and ``explain`` on status files made by hand."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from reconciler.cli import main
from state.status import decode_status
from tests.unit.cli.statuses import FLEX, INTEGRATED, write_status


def shown(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert main(words) == code
    return capsys.readouterr()


def test_status_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, *write_status(tmp_path), "status")
    assert err == ""
    conditions, gpus, allocations, planned, blocked = (part.splitlines() for part in out.split("\n\n"))
    assert conditions[1].split()[:3] == ["Ready", "False", "Blocked"]
    assert gpus == [
        "DEVICE               MODEL     DRIVER  MEMORY      VFS              NUMA  PCIE ROOT   HEALTH",
        "0000-00-02-0-0x4680  UHD 770   -       >= 256 MiB  -                -     -           Healthy",
        "0000-03-00-0-0x56c0  Flex 170  i915    15.9 GiB    4/31 flex170_m4  0     pci0000:00  Unhealthy",
    ]
    assert [line.split()[0] for line in allocations] == ["ALLOCATION", "jupyter", "vm", "lab/train"]
    assert f"{FLEX}-m4-vf1 (vfio)" in allocations[2]
    assert planned[1] == f"{FLEX}  bind VF 1 to vfio-pci"
    assert blocked[1] == f"{FLEX} VF 1  in use by a process"


def test_wide_has_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = shown(capsys, *write_status(tmp_path), "status", "-o", "wide")
    assert (
        "0000:03:00.0  0x56c0  Data Center Flex  off  1      16.0 GT/s PCIe x16  dri/card0,dri/renderD128,mei0"
        in out
    )
    assert "intel.com/gpu=alloc-jupyter-0,intel.com/gpu=jupyter" in out


def test_status_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = write_status(tmp_path)
    as_json, _ = shown(capsys, *flags, "status", "-o", "json")
    as_yaml, _ = shown(capsys, *flags, "status", "-o", "yaml")
    assert json.loads(as_json) == yaml.safe_load(as_yaml)
    assert decode_status(as_json.encode()) == decode_status((tmp_path / "run/status/status.json").read_bytes())
    assert json.loads(as_json)["status"]["devices"][1]["memory"]["bytes"] == 17045651456


@pytest.mark.parametrize(
    ("ago", "boot_id", "said"),
    [
        (timedelta(minutes=3), None, "written 3m ago: no agent keeps it up to date now"),
        (timedelta(), "another", "from another boot: the machine may be different now"),
    ],
)
def test_warns_of_an_old_status(
    ago: timedelta, boot_id: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = write_status(tmp_path, ago=ago) if boot_id is None else write_status(tmp_path, boot_id=boot_id)
    out, err = shown(capsys, *flags, "status")
    assert out
    assert err == f"gpu-reconciler: {tmp_path}/run/status/status.json: {said}\n"


@pytest.mark.parametrize("command", [["status"], ["explain", "jupyter"]])
def test_no_agent_has_run(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, "--run-dir", str(tmp_path), *command, code=1)
    assert out == ""
    assert err == (
        f"gpu-reconciler: {tmp_path}/status/status.json: no such file: no agent has run here since boot\n"
    )


@pytest.mark.parametrize("content", [b"", b"nonsense", b"{}", b"\xff"])
def test_a_status_that_makes_no_sense(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "status").mkdir()
    (tmp_path / "status/status.json").write_bytes(content)
    out, err = shown(capsys, "--run-dir", str(tmp_path), "status", code=1)
    assert out == ""
    assert err.startswith(f"gpu-reconciler: {tmp_path}/status/status.json: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", [FLEX, "0000:03:00.0", f"{FLEX}-m4-vf3"])
def test_explains_a_gpu(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, *write_status(tmp_path), "explain", name)
    assert err == ""
    told, allocations, layouts = out.split("\n\n")
    for line in (
        f"Device:     {FLEX}",
        "Memory:     15.9 GiB (from sysfs)",
        "VFs:        4/31 flex170_m4",
        "Made by:    us",
        "Health:     Unhealthy",
        "  Wedged:   said to be wedged",
        "Used by:    jupyter",
        "Planned:    bind VF 1 to vfio-pci",
        f"Blocked:    {FLEX} VF 1: in use by a process",
    ):
        assert line in told.splitlines()
    assert [line.split()[0] for line in allocations.splitlines()] == ["ALLOCATION", "jupyter", "vm"]
    rows = [line.split() for line in layouts.splitlines()]
    assert ["flex170_m4", "4", "3.9", "GiB", "250", "now"] in rows
    assert rows[-1] == ["fs31", "31", "524", "MiB", "32", "-"]


def test_explains_a_gpu_without_virtual_functions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = shown(capsys, *write_status(tmp_path), "explain", INTEGRATED)
    assert "\nVFs:      no SR-IOV\n" in out
    assert "\nMemory:   >= 256 MiB (from bar)\n" in out
    assert "\nUsed by:  nobody" in out
    assert "LAYOUT" not in out


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("jupyter", ["Phase:       Ready", "CDI device:  intel.com/gpu=jupyter"]),
        ("vm", ["Phase:       Blocked", "Failures:    2"]),
        ("vm", ["Why:         it was given to old; say --force-release old"]),
        ("lab/train", ["Allocation:  a1b2", "Claim:       lab/train"]),
        ("a1b2", ["What helps:  correct the desired state at the place named: waiting won't help"]),
    ],
)  # fmt: skip
def test_explains_an_allocation(
    name: str, lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = shown(capsys, *write_status(tmp_path), "explain", name)
    assert set(lines) <= set(out.splitlines())


def test_explanations_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = write_status(tmp_path)
    gpu = json.loads(shown(capsys, *flags, "explain", FLEX, "-o", "json")[0])
    assert [layout["profile"] for layout in gpu["layouts"] if layout["current"]] == ["flex170_m4"]
    assert gpu["layouts"][0]["memory"] == 16777216000
    assert gpu["planned"] == ["bind VF 1 to vfio-pci"]
    allocation = yaml.safe_load(shown(capsys, *flags, "explain", "vm", "-o", "yaml")[0])
    assert "--force-release" in allocation["advice"]
    assert allocation["allocation"]["attempts"] == 2


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(capsys, *write_status(tmp_path), "explain", "nobody", code=1)
    assert out == ""
    assert err == (
        "gpu-reconciler: nobody: no such GPU or allocation "
        f"(allowed: {INTEGRATED}, {FLEX}, jupyter, vm, lab/train)\n"
    )
