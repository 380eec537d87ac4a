"""A container runtime takes what we write: the specs of every kind of allocation, in real containers."""

import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpusim
from tests.container import containers
from tests.container.containers import Host, InContainer

pytestmark = [pytest.mark.root, pytest.mark.fuse]

FLEX, FLEX_AT = "0000-1a-00-0-0x56c0", "0000:1a:00"
ARC, ARC_AT = "0000-c7-00-0-0xe20b", "0000:c7:00"
B50, B50_AT = "0000-a9-00-0-0xe212", "0000:a9:00"
B60, B60_AT = "0000-b8-00-0-0xe211", "0000:b8:00"

ALLOCATIONS: dict[str, list[dict[str, object]]] = {
    "whole": [{"device": ARC}],
    "virtual": [{"device": f"{FLEX}-m4-vf0"}],
    "pair": [{"device": f"{FLEX}-m4-vf1"}, {"device": f"{FLEX}-m4-vf2"}],
    "four.k-2": [{"device": f"{FLEX}-m4-vf3"}],
    "shared-1": [{"device": f"{B60}-shared", "memory": "2Gi"}],
    "shared-2": [{"device": f"{B60}-shared", "memory": "2Gi"}],
    "machine": [{"device": f"{B50}-fs2-vf0", "kernelDriver": "vfio"}],
    "watch": [{"device": f"{FLEX}-monitor", "adminAccess": True}],
}
WITHOUT_DRIVER = {"", "No such device", "No such device or address", "Invalid argument", "Input/output error"}
"""What opening a node may give that the cgroup lets through: its driver is only simulated."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with containers.running(tmp_path_factory.mktemp("host"), machine()) as there:
        there.skip_without_podman()
        there.apply(ALLOCATIONS)
        yield there


def machine() -> gpusim.MachineSpec:
    """A Flex 170, an Arc B580, a B50 and a B60, each with few VFs."""
    mixed = gpusim.load_machine("mixed")
    few = [
        gpu if gpu.sriov is None else dataclasses.replace(gpu, sriov=dataclasses.replace(gpu.sriov, total=4))
        for gpu in mixed.gpus
        if gpu.address in {f"{place}.0" for place in (FLEX_AT, ARC_AT, B50_AT, B60_AT)}
    ]
    return dataclasses.replace(mixed, gpus=tuple(few), others=())


def drm_nodes(host: Host, *addresses: str) -> dict[str, str]:
    """The DRM nodes of functions, by path, also those by-path, with their numbers."""
    nodes: dict[str, str] = {}
    for address in addresses:
        for name in host.machine.sysfs.listdir(f"bus/pci/devices/{address}/drm"):
            number = host.machine.sysfs.read(f"class/drm/{name}/dev").decode().strip()
            kind = "card" if name.startswith("card") else "render"
            nodes |= {f"/dev/dri/{name}": number, f"/dev/dri/by-path/pci-{address}-{kind}": number}
    return nodes


def numbers(inside: dict[str, InContainer]) -> dict[str, str]:
    """The nodes a container has, with their numbers. Fails if one can't be opened, or one of its own can."""
    assert inside.pop("/dev/forbidden").opening == "Operation not permitted", "the cgroup lets everything through"
    assert {node.opening for node in inside.values()} <= WITHOUT_DRIVER
    return {path: node.number for path, node in inside.items()}


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("whole", [f"{ARC_AT}.0"]),
        ("virtual", [f"{FLEX_AT}.1"]),
        ("pair", [f"{FLEX_AT}.2", f"{FLEX_AT}.3"]),
        ("alloc-pair-0", [f"{FLEX_AT}.2"]),
        ("alloc-pair-1", [f"{FLEX_AT}.3"]),
        ("four.k-2", [f"{FLEX_AT}.4"]),
        ("shared-1", [f"{B60_AT}.0"]),
        ("shared-2", [f"{B60_AT}.0"]),
    ],
)
def test_drm_devices(host: Host, name: str, addresses: list[str]) -> None:
    assert numbers(host.nodes_inside(name)) == drm_nodes(host, *addresses)


def test_device_nodes_that_are_there_can_be_opened(tmp_path: Path) -> None:
    with containers.running(tmp_path, gpusim.load_machine("arc-b580"), real_nodes=True) as host:
        host.skip_without_podman()
        host.apply({"whole": [{"device": "0000-03-00-0-0xe20b"}]})
        inside = host.nodes_inside("whole")
    del inside["/dev/forbidden"]
    assert inside.keys() == {
        "/dev/dri/card0", "/dev/dri/renderD128",
        "/dev/dri/by-path/pci-0000:03:00.0-card", "/dev/dri/by-path/pci-0000:03:00.0-render",
    }  # fmt: skip
    assert set(inside.values()) == {InContainer(number="1:3", opening="")}


def test_devices_of_several_allocations_in_one_container(host: Host) -> None:
    inside = numbers(host.nodes_inside("whole", "virtual"))
    assert inside == drm_nodes(host, f"{ARC_AT}.0", f"{FLEX_AT}.1")


def test_a_device_for_a_virtual_machine(host: Host) -> None:
    """The VFIO container, the IOMMU group's node and the device's own; no DRM nodes."""
    sysfs = host.machine.sysfs
    group = sysfs.readlink(f"bus/pci/devices/{B50_AT}.1/iommu_group").rpartition("/")[2]
    (own,) = sysfs.listdir(f"bus/pci/devices/{B50_AT}.1/vfio-dev")
    assert numbers(host.nodes_inside("machine")) == {
        "/dev/vfio/vfio": "10:196",
        f"/dev/vfio/{group}": sysfs.read(f"class/vfio/{group}/dev").decode().strip(),
        f"/dev/vfio/devices/{own}": sysfs.read(f"class/vfio-dev/{own}/dev").decode().strip(),
    }


def test_a_device_for_monitoring(host: Host) -> None:
    """The GPU itself beside its VFs, and its firmware interface."""
    inside = numbers(host.nodes_inside("watch"))
    mei = {path for path in inside if path.startswith("/dev/mei")}
    assert len(mei) == 1
    assert {path: inside[path] for path in inside.keys() - mei} == drm_nodes(host, f"{FLEX_AT}.0")


def test_names_of_nobody_are_unresolvable(host: Host) -> None:
    for name in ("nobody", "alloc-pair-2", "alloc-whole"):
        refused = host.podman("/bin/sh", "-c", "true", devices=[name])
        assert refused.returncode != 0
        assert f"unresolvable CDI devices intel.com/gpu={name}" in refused.stderr


def test_an_allocation_that_was_removed_is_unresolvable(host: Host) -> None:
    host.apply({name: devices for name, devices in ALLOCATIONS.items() if name != "shared-2"})
    try:
        refused = host.podman("/bin/sh", "-c", "true", devices=["shared-2"])
        assert refused.returncode != 0
        assert "unresolvable CDI devices intel.com/gpu=shared-2" in refused.stderr
        assert numbers(host.nodes_inside("shared-1")) == drm_nodes(host, f"{B60_AT}.0"), "the other share goes on"
    finally:
        host.apply(ALLOCATIONS)


def test_specs_of_nodes_in_dev(tmp_path: Path) -> None:
    """As on a real host: no host paths, and the runtime makes the nodes by their numbers."""
    with containers.running(tmp_path, gpusim.load_machine("arc-b580")) as host:
        host.skip_without_podman()
        host.apply({"whole": [{"device": "0000-03-00-0-0xe20b"}]}, plain_dev=True)
        assert host.version("intel.com-gpu_alloc-whole.json") == "0.3.0"
        assert numbers(host.nodes_inside("whole")) == drm_nodes(host, "0000:03:00.0")


def test_the_go_library_reads_every_spec(tmp_path: Path) -> None:
    """With device nodes elsewhere (host paths need version 0.5.0), and in /dev, where 0.3.0 will do.

    One test, so that the program is built only once.
    """
    read_specs = tmp_path / "read_specs"
    containers.build(Path(__file__).with_name("read_specs.go"), read_specs)
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"cdiVersion": "0.3.0", "kind": "intel.com/gpu", "devices": [], "bogus": 1}')
    told = _run(read_specs, wrong)
    assert (told.returncode, "bogus" in told.stdout) == (1, True), "the counter-check"
    for version, plain_dev in (("0.5.0", False), ("0.3.0", True)):
        with containers.running(tmp_path / version, machine()) as host:
            host.apply(ALLOCATIONS, plain_dev=plain_dev)
            assert len(host.specs()) == len(ALLOCATIONS)
            told = _run(read_specs, *host.specs())
            assert told.returncode == 0, told.stdout
            assert told.stdout.count(f"version {version}, ") == len(ALLOCATIONS)


def _run(program: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *files], capture_output=True, text=True, timeout=60, check=False)
