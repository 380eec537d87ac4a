"""Machines of the simulator as discovery sees them, and what it makes of values that make no sense."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpusim
from reconciler.node.discovery import boot_id, is_gpu, is_in_vf_range, kernel_drivers, pci_addresses
from reconciler.node.roots import Roots
from state.ids import DeviceName, PciAddress, device_name
from state.observed import DeviceNode, HealthCause, MemorySeen, MemorySource, SriovSeen, Unreadable
from state.profiles import MIB, Ecc
from tests.unit.node.machines import PF, TABLES, observer, only_gpu, plain, roots_below


def name_of(spec: gpusim.GpuSpec) -> DeviceName:
    return device_name(PciAddress(spec.address), spec.device)


MACHINES = [
    pytest.param(name, marks=pytest.mark.slow) if name.endswith("-x8") else name for name in gpusim.machine_names()
]


@pytest.mark.parametrize("name", MACHINES)
def test_every_machine_is_seen_as_it_is(name: str, tmp_path: Path) -> None:
    specs = {name_of(spec): spec for spec in gpusim.load_machine(name).gpus}
    with plain(tmp_path, name) as roots:
        seen = observer(roots).look()
    assert seen.unreadable == ()
    assert list(seen.gpus) == sorted(specs, key=lambda gpu: (len(gpu), gpu))
    for gpu_name, spec in specs.items():
        gpu = seen.gpus[gpu_name]
        assert gpu.model == TABLES.models.of(spec.device)
        assert gpu.function.driver == spec.boot_driver
        assert (gpu.sriov is not None, gpu.total_vfs) == (
            spec.sriov is not None,
            spec.sriov.total if spec.sriov else 0,
        )
        enabled = gpu.sriov.enabled if isinstance(gpu.sriov, SriovSeen) else 0
        assert enabled == spec.vfs_at_boot
        has_drm = spec.boot_driver == spec.driver and not spec.survivability
        assert len(gpu.function.drm) == len(gpu.function.by_path) == (2 if has_drm else 0)
        assert all(node.present for node in (*gpu.function.drm, *gpu.function.by_path))
        assert gpu.tiles == spec.tiles
        assert gpu.numa_node == (None if spec.numa_node < 0 else spec.numa_node)
        first = spec.bridges[0] if spec.bridges else spec.address
        assert gpu.pcie_root == f"pci{first[:-5]}"
        assert gpu.pci_class == spec.pci_class
        assert [sick.cause for sick in gpu.sickness] == [HealthCause.SURVIVABILITY] * spec.survivability
        if gpu.memory is not None and gpu.memory.exact:
            assert gpu.memory.total == spec.vram_mib * MIB
        assert gpu.memory is None or 0 < gpu.memory.total <= spec.vram_mib * MIB
        assert (gpu.memory is None) is (spec.vram_mib == 0)


def test_a_flex_170_in_full(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        gpu = only_gpu(roots)
    assert gpu.name == "0000-03-00-0-0x56c0"
    assert (gpu.model.name, gpu.model.family) == ("Flex 170", "Data Center Flex")
    assert gpu.function.drm == (
        DeviceNode(path="dri/card0", major=226, minor=0),
        DeviceNode(path="dri/renderD128", major=226, minor=128),
    )
    assert gpu.function.by_path == (
        DeviceNode(path="dri/by-path/pci-0000:03:00.0-card", major=226, minor=0),
        DeviceNode(path="dri/by-path/pci-0000:03:00.0-render", major=226, minor=128),
    )
    assert gpu.memory == MemorySeen(total=16256 * MIB, source=MemorySource.SYSFS)
    assert gpu.ecc is Ecc.OFF
    assert gpu.integrated is False
    assert gpu.link == "16.0 GT/s PCIe x16"
    assert [node.path for node in gpu.mei] == ["mei0"]
    assert gpu.subsystem_vendor == 0x8086
    assert (gpu.function.driver_override, gpu.drm_driver) == (None, "i915")


def test_ecc_shows_in_the_memory_that_is_left(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170-ecc") as roots:
        assert only_gpu(roots).ecc is Ecc.ON


def test_vfs_are_seen_with_their_gpu_and_nowhere_else(tmp_path: Path) -> None:
    def enable(machine: gpusim.Machine) -> None:
        machine.sysfs.write(f"{PF}/sriov_numvfs", "9")

    with plain(tmp_path, "flex170", enable) as roots:
        gpu = only_gpu(roots)
    assert isinstance(gpu.sriov, SriovSeen)
    assert (gpu.sriov.total, gpu.sriov.enabled) == (31, 9)
    assert [vf.index for vf in gpu.sriov.vfs] == list(range(9))
    assert gpu.sriov.vfs[0].function.address == "0000:03:00.1"
    assert gpu.sriov.vfs[8].function.address == "0000:03:01.1"
    for vf in gpu.sriov.vfs:
        assert vf.function.driver == "i915"
        assert [node.path for node in vf.function.drm] == [
            f"dri/card{vf.index + 1}",
            f"dri/renderD{vf.index + 129}",
        ]
        assert vf.function.iommu_group is not None


def test_a_vf_without_its_gpu_is_a_gpu_of_its_own(tmp_path: Path) -> None:
    def enable(machine: gpusim.Machine) -> None:
        machine.sysfs.write(f"{PF}/sriov_numvfs", "2")

    with plain(tmp_path, "flex170", enable) as roots:
        for name in ("0000:03:00.0", "0000:03:00.2"):
            os.unlink(f"{roots.sysfs}/bus/pci/devices/{name}")
        gpu = only_gpu(roots)
    assert gpu.name == "0000-03-00-1-0x56c0"
    assert gpu.sriov is None
    assert gpu.function.driver == "i915"


def test_vfio_nodes_and_mates(tmp_path: Path) -> None:
    with plain(tmp_path, "passthrough") as roots:
        gpus = observer(roots).look().gpus
    (gpu,) = (gpu for gpu in gpus.values() if gpu.function.driver == "vfio-pci")
    assert gpu.function.drm == ()
    group = gpu.function.iommu_group
    assert [node.path for node in gpu.function.vfio] == ["vfio/devices/vfio0", f"vfio/{group}", "vfio/vfio"]
    assert gpu.function.vfio[-1] == DeviceNode(path="vfio/vfio", major=10, minor=196)
    assert gpu.drm_driver == "xe"


def test_a_node_that_is_not_there_yet(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        os.unlink(f"{roots.devfs}/dri/renderD128")
        gpu = only_gpu(roots)
    assert [node.present for node in gpu.function.drm] == [True, False]
    assert [node.present for node in gpu.function.by_path] == [True, False]
    assert gpu.function.drm[1].minor == 128


@pytest.mark.root
def test_the_number_of_a_real_node_counts(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        os.unlink(f"{roots.devfs}/dri/card0")
        os.mknod(f"{roots.devfs}/dri/card0", 0o600 | 0o020000, os.makedev(226, 7))
        assert only_gpu(roots).function.drm[0] == DeviceNode(path="dri/card0", major=226, minor=7)


def test_a_driver_override(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        _replace(Path(roots.sysfs, PF, "driver_override"), "vfio-pci\n")
        assert only_gpu(roots).function.driver_override == "vfio-pci"


def test_drivers_loaded_now(tmp_path: Path) -> None:
    with plain(tmp_path, "passthrough") as roots:
        there = set(os.listdir(f"{roots.sysfs}/bus/pci/drivers"))
        assert {"xe", "vfio-pci"} <= kernel_drivers(roots.sysfs) <= there
        os.mkdir(f"{roots.sysfs}/bus/pci/drivers/nvme")
        assert "nvme" not in kernel_drivers(roots.sysfs)
    assert kernel_drivers(f"{tmp_path}/absent") == frozenset()


def test_boot_id(tmp_path: Path) -> None:
    file = tmp_path / "sys/kernel/random/boot_id"
    assert boot_id(str(tmp_path)) == Unreadable(path=str(file), why="no such file")
    file.parent.mkdir(parents=True)
    file.write_text("5b2f\n")
    assert boot_id(str(tmp_path)) == "5b2f"
    file.write_text("\n")
    assert isinstance(boot_id(str(tmp_path)), Unreadable)


def test_addresses_come_in_order_and_long_domains_last(tmp_path: Path) -> None:
    devices = tmp_path / "bus/pci/devices"
    devices.mkdir(parents=True)
    for name in ("10000:01:00.0", "0000:03:00.1", "0000:03:00.0", "ffff:00:00.0"):
        (devices / name).mkdir()
    addresses = pci_addresses(str(tmp_path))
    assert addresses == ("0000:03:00.0", "0000:03:00.1", "ffff:00:00.0", "10000:01:00.0")
    (devices / "nonsense").mkdir()
    assert isinstance(pci_addresses(str(tmp_path)), Unreadable)


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("0000:0a:00.0", False),
        ("0000:0a:00.1", True),
        ("0000:0a:01.0", True),
        ("0000:0a:01.1", False),
        ("0000:09:1f.7", False),
        ("0001:0a:00.1", False),
    ],
)
def test_vfs_follow_their_gpu(address: str, inside: bool) -> None:
    physical = PciAddress("0000:0a:00.0")
    assert is_in_vf_range(PciAddress(address), physical, total=8) is inside


def test_a_vf_range_may_reach_the_next_bus() -> None:
    physical = PciAddress("0000:0a:1f.0")
    assert is_in_vf_range(PciAddress("0000:0b:00.7"), physical, total=63)


def test_a_wrong_root_says_so(tmp_path: Path) -> None:
    seen = observer(roots_below(tmp_path)).look()
    assert seen.gpus == {}
    assert seen.unreadable == (Unreadable(path=f"{tmp_path}/sys/bus/pci/devices", why="no such directory"),)


@pytest.mark.parametrize(
    ("vendor", "pci_class", "expected"),
    [
        ("0x8086", "0x030000", True),
        ("0x8086", "0x038000", True),
        ("0x8086", "0x120000", True),
        ("0x8086", "0x020000", False),
        ("0x10de", "0x030000", False),
        ("0x10de", "garbage", False),
        ("garbage", "0x020000", False),
    ],
)
def test_gpus_by_vendor_and_class(tmp_path: Path, vendor: str, pci_class: str, expected: bool) -> None:
    directory = tmp_path / PF
    directory.mkdir(parents=True)
    (directory / "vendor").write_text(f"{vendor}\n")
    (directory / "class").write_text(f"{pci_class}\n")
    assert is_gpu(str(tmp_path), PciAddress("0000:03:00.0")) is expected


@pytest.mark.parametrize("attribute", ["vendor", "class", "device"])
@pytest.mark.parametrize("value", ["", "garbage", "0x1_0"])
def test_without_identity_there_is_no_gpu_but_a_problem(tmp_path: Path, attribute: str, value: str) -> None:
    with plain(tmp_path, "flex170") as roots:
        path = Path(roots.sysfs, PF, attribute)
        _replace(path, f"{value}\n")
        seen = observer(roots).look()
    assert seen.gpus == {}
    (problem,) = seen.unreadable
    assert problem.path == str(path)
    assert repr(value) in problem.why


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("sriov_totalvfs", "many"),
        ("sriov_totalvfs", "-1"),
        ("sriov_numvfs", ""),
        ("sriov_numvfs", "70000"),
        ("sriov_drivers_autoprobe", "yes"),
        ("drm/card0/prelim_iov/pf/auto_provisioning", "2"),
        ("drm/card0/dev", "226"),
    ],
)
def test_what_a_gpu_cannot_be_used_without_makes_it_sick(tmp_path: Path, attribute: str, value: str) -> None:
    with plain(tmp_path, "flex170") as roots:
        path = Path(roots.sysfs, PF, attribute)
        _replace(path, f"{value}\n")
        seen = observer(roots).look()
    (gpu,) = seen.gpus.values()
    (problem,) = seen.unreadable
    assert problem.path == str(path)
    assert repr(value) in problem.why
    assert [(sick.cause, sick.message) for sick in gpu.sickness] == [(HealthCause.UNREADABLE, str(problem))]
    if attribute.startswith("sriov") or "iov" in attribute:
        assert gpu.sriov == problem


@pytest.mark.parametrize(
    "attribute",
    [
        "numa_node",
        "subsystem_vendor",
        "subsystem_device",
        "revision",
        "resource",
        "drm/card0/lmem_total_bytes",
    ],
)
def test_what_a_gpu_can_be_used_without_is_only_reported(tmp_path: Path, attribute: str) -> None:
    with plain(tmp_path, "flex170") as roots:
        if attribute == "resource":
            os.unlink(Path(roots.sysfs, PF, "drm/card0/lmem_total_bytes"))
        path = Path(roots.sysfs, PF, attribute)
        _replace(path, "x\n" * 5)
        seen = observer(roots).look()
    (gpu,) = seen.gpus.values()
    assert gpu.sickness == ()
    assert [problem.path for problem in seen.unreadable] == [str(path)]


def test_a_driver_that_cannot_be_told_is_unreadable(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        driver = Path(roots.sysfs, PF, "driver")
        driver.unlink()
        driver.touch()
        gpu = only_gpu(roots)
    assert gpu.function.driver == Unreadable(
        path=str(Path(roots.sysfs, PF, "driver")), why="EINVAL: Invalid argument"
    )
    assert [sick.cause for sick in gpu.sickness] == [HealthCause.UNREADABLE]


def test_a_vf_link_to_nowhere_known_is_unreadable(tmp_path: Path) -> None:
    with plain(tmp_path, "flex170") as roots:
        os.symlink("../nonsense", Path(roots.sysfs, PF, "virtfn0"))
        gpu = only_gpu(roots)
    assert isinstance(gpu.sriov, Unreadable)
    assert "nonsense" in gpu.sriov.why


@pytest.mark.root
@pytest.mark.parametrize("name", ["sriov_numvfs", "numa_node"])
def test_errors_of_the_kernel_keep_their_errno(tmp_path: Path, name: str) -> None:
    """A directory in an attribute's place is the error that a plain tree can produce on reading."""
    with plain(tmp_path, "flex170") as roots:
        path = Path(roots.sysfs, PF, name)
        path.unlink()
        path.mkdir()
        seen = observer(roots).look()
    assert seen.unreadable == (Unreadable(path=str(path), why="EISDIR: Is a directory"),)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Roots, list[Path]]]:
    """A machine in files, and all its attributes that discovery may read."""
    where = tmp_path_factory.mktemp("spoiled")
    with plain(where, "b60") as roots:
        directory = Path(roots.sysfs, PF).resolve()
        files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
        yield roots, sorted(path for path in files if "gt" not in path.name)


@given(data=st.data(), content=st.binary(max_size=40))
def test_nothing_in_an_attribute_breaks_discovery(
    spoiled: tuple[Roots, list[Path]], data: st.DataObject, content: bytes
) -> None:
    roots, files = spoiled
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content)
    try:
        seen = observer(roots).look()
    finally:
        path.write_bytes(before)
    assert len(seen.gpus) <= 1
    for problem in seen.unreadable:
        assert Path(problem.path).resolve() == path
        assert problem.why.startswith("expected ")


def _replace(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text)
