"""Every kind of GPU, used in every way it can be used, one way after the other, and given back untouched."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import gpusim
from state.planning import Options
from tests.cdi_rules import nodes_of, specs_in
from tests.engine import hardware
from tests.engine.hardware import assert_pristine
from tests.engine.machines import (
    Bench,
    Node,
    allocation,
    is_ready,
    limited,
    manifest,
    phases,
    running,
    vfio,
    why_not,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A machine of the simulator, its GPU's table profiles (two of them) and two fair shares."""

    machine: str
    profiles: tuple[str, ...] = ()
    shares: tuple[int, ...] = ()
    ecc_on: bool = False

    def __str__(self) -> str:
        return self.machine

    @property
    def spec(self) -> gpusim.MachineSpec:
        return limited(gpusim.load_machine(self.machine), 12)


KINDS = (
    Kind(machine="flex170", profiles=("flex170_m4", "flex170_m2"), shares=(3, 5)),
    Kind(machine="flex170-ecc", profiles=("flex170_m2", "flex170_m5"), shares=(4, 2), ecc_on=True),
    Kind(machine="flex140", profiles=("flex140_m3", "flex140_m6"), shares=(2, 4)),
    Kind(machine="max1550", profiles=("max_128g_c2", "max_128g_c4"), shares=(2, 3), ecc_on=True),
    Kind(machine="arc-b580"),
    Kind(machine="b50", shares=(2, 12)),
    Kind(machine="b60", shares=(4, 3)),
    Kind(machine="igpu"),
    Kind(machine="igpu-xe", shares=(7, 2)),
    Kind(machine="long-domain", shares=(2, 4)),
)
WITH_VFS = tuple(kind for kind in KINDS if kind.shares)
WITH_PROFILES = tuple(kind for kind in KINDS if kind.profiles)


def by_kind(kinds: tuple[Kind, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=str)


def settled(node: Node, wanted: dict[str, object]) -> None:
    """The machine gets to what is wanted without waiting."""
    status = node.want(wanted)
    assert is_ready(status), why_not(status)
    hardware.assert_sound(node.bench)


def assert_export_changes_nothing(bench: Bench) -> None:
    """What the machine says about itself, asked for, needs no change."""
    exported = bench.exported()
    bench.want(exported)
    assert bench.foreseen() == [], exported


def drm_nodes(bench: Bench, address: str) -> list[str]:
    """What a user of a function with a DRM driver has to get."""
    names = bench.machine.sysfs.listdir(f"{hardware.pf(address)}/drm")
    nodes = [f"/dev/dri/{name}" for name in names if name.startswith(("card", "render"))]
    links = [f"/dev/dri/by-path/pci-{address}-{name}" for name in ("card", "render")]
    return sorted(nodes + links)


def injected(bench: Bench, name: str) -> list[str]:
    """The device nodes that a standalone user called `name` gets."""
    return nodes_of(specs_in(bench.cdi)[f"intel.com-gpu_alloc-{name}.json"], name)


@by_kind(KINDS)
def test_whole_then_shared(kind: Kind, tmp_path: Path) -> None:
    with running(tmp_path, kind.spec) as bench:
        node = Node(bench)
        settled(node, manifest({"whole": [bench.gpu]}))
        assert injected(bench, "whole") == drm_nodes(bench, bench.address)
        settled(node, manifest({"one": [f"{bench.gpu}-shared"], "two": [f"{bench.gpu}-shared"]}))
        assert injected(bench, "one") == injected(bench, "two") == drm_nodes(bench, bench.address)
        assert len(specs_in(bench.cdi)) == 2
        assert_export_changes_nothing(bench)
        settled(node, manifest())
        assert_pristine(bench)


@by_kind(WITH_PROFILES)
def test_one_table_profile_after_the_other(kind: Kind, tmp_path: Path) -> None:
    first, second = kind.profiles
    with running(tmp_path, kind.spec) as bench:
        node, modes = Node(bench), [profile.rpartition("_")[2] for profile in kind.profiles]
        settled(node, manifest({"a": [f"{bench.gpu}-{modes[0]}-vf0"], "b": [f"{bench.gpu}-{modes[0]}-vf1"]}))
        hardware.assert_profile(bench.machine, bench.address, first, ecc_on=kind.ecc_on)
        vfs = hardware.vf_addresses(bench.machine, bench.address)
        assert injected(bench, "a") == drm_nodes(bench, vfs[0])
        assert injected(bench, "b") == drm_nodes(bench, vfs[1])
        settled(node, manifest({"a": [f"{bench.gpu}-{modes[0]}-vf0"]}))  # b's VF is a leftover
        assert_export_changes_nothing(bench)
        hardware.assert_profile(bench.machine, bench.address, first, ecc_on=kind.ecc_on)
        settled(node, manifest({"c": [f"{bench.gpu}-{modes[1]}-vf1"]}))
        hardware.assert_profile(bench.machine, bench.address, second, ecc_on=kind.ecc_on)
        settled(node, manifest({"whole": [bench.gpu]}))
        assert hardware.num_vfs(bench.machine, bench.address) == 0
        settled(node, manifest())
        assert_pristine(bench)


@by_kind(WITH_VFS)
def test_fair_shares(kind: Kind, tmp_path: Path) -> None:
    first, second = kind.shares
    with running(tmp_path, kind.spec) as bench:
        node = Node(bench)
        settled(node, manifest({"a": [f"{bench.gpu}-fs{first}-vf0", f"{bench.gpu}-fs{first}-vf1"]}))
        assert hardware.num_vfs(bench.machine, bench.address) == first
        assert hardware.automatic(bench.machine, bench.address) in (None, "1")
        vfs = hardware.vf_addresses(bench.machine, bench.address)
        assert injected(bench, "a") == sorted(drm_nodes(bench, vfs[0]) + drm_nodes(bench, vfs[1]))
        assert_export_changes_nothing(bench)
        settled(node, manifest({"b": [f"{bench.gpu}-fs{second}-vf0"]}))
        assert hardware.num_vfs(bench.machine, bench.address) == second
        for profile in kind.profiles[:1]:
            settled(node, manifest({"c": [f"{bench.gpu}-{profile.rpartition('_')[2]}-vf0"]}))
            settled(node, manifest({"b": [f"{bench.gpu}-fs{second}-vf0"]}))
            assert hardware.automatic(bench.machine, bench.address) == "1"
        settled(node, manifest())
        assert_pristine(bench)


@pytest.mark.parametrize("kind", WITH_VFS, ids=str)
def test_passthrough_of_vfs_and_of_the_whole(kind: Kind, tmp_path: Path) -> None:
    with running(tmp_path, kind.spec) as bench:
        node, own = Node(bench), hardware.driver(bench.machine, bench.address)
        first, second = (f"{bench.gpu}-fs2-vf{index}" for index in range(2))
        settled(node, manifest({"vm": [vfio(first)], "pod": [second]}))
        assert hardware.vf_drivers(bench.machine, bench.address) == ["vfio-pci", own]
        assert injected(bench, "vm")[-1] == "/dev/vfio/vfio"
        assert injected(bench, "pod")[0].startswith("/dev/dri/")
        settled(node, manifest({"vm": [first], "pod": [vfio(second)]}))
        assert hardware.vf_drivers(bench.machine, bench.address) == [own, "vfio-pci"]
        assert_export_changes_nothing(bench)
        settled(node, manifest({"vm": [vfio(bench.gpu)]}))
        assert hardware.driver(bench.machine, bench.address) == "vfio-pci"
        assert injected(bench, "vm")[-1] == "/dev/vfio/vfio"
        assert_export_changes_nothing(bench)
        settled(node, manifest({"pod": [second]}))
        assert hardware.driver(bench.machine, bench.address) == own
        settled(node, manifest())
        assert_pristine(bench)


@pytest.mark.parametrize("machine", ["arc-b580", "igpu"])
def test_passthrough_of_gpus_without_vfs(machine: str, tmp_path: Path) -> None:
    with running(tmp_path, machine) as bench:
        node = Node(bench)
        settled(node, manifest({"vm": [vfio(bench.gpu)]}))
        assert hardware.driver(bench.machine, bench.address) == "vfio-pci"
        settled(node, manifest())
        assert_pristine(bench)


def test_unwanted_vfs_linger_for_the_next_one(tmp_path: Path) -> None:
    with running(tmp_path, "flex170") as bench:
        node = Node(bench)
        settled(node, manifest({"a": [f"{bench.gpu}-m4-vf0"]}, linger=30))
        node.want(manifest(linger=30))
        node.wait(29)
        hardware.assert_profile(bench.machine, bench.address, "flex170_m4")
        assert list(specs_in(bench.cdi)) == []
        before = len(bench.machine.sysfs.listdir("class/drm"))
        settled(node, manifest({"b": [f"{bench.gpu}-m4-vf3"]}, linger=30))
        assert len(bench.machine.sysfs.listdir("class/drm")) == before
        node.want(manifest(linger=30))
        node.wait(29)
        assert hardware.num_vfs(bench.machine, bench.address) == 4
        node.wait(2)
        assert is_ready(node.status), why_not(node.status)
        assert_pristine(bench)


def test_another_mode_ends_the_lingering_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "b60") as bench:
        node = Node(bench)
        settled(node, manifest({"a": [f"{bench.gpu}-fs4-vf0"]}, linger=3600))
        settled(node, manifest({"b": [f"{bench.gpu}-fs2-vf1"]}, linger=3600))
        settled(node, manifest({"c": [bench.gpu]}, linger=3600))
        settled(node, manifest(linger=3600))
        assert_pristine(bench)


def test_all_kinds_in_one_machine(tmp_path: Path) -> None:
    """With real threads, as `apply` does it: each GPU in another way at once, then all otherwise, then none."""
    with running(tmp_path, limited(gpusim.load_machine("mixed"), 4)) as bench:
        igpu, flex170, flex140, unbound, max1550, b50, b60, b580 = bench.gpus
        status = bench.reach(
            manifest(
                {
                    "screen": [f"{igpu}-shared"],
                    "many": [f"{flex170}-m2-vf0", f"{flex140}-m3-vf2", f"{max1550}-c2-vf1"],
                    "vm": [vfio(f"{b50}-fs2-vf0"), vfio(b580)],
                    "train": [unbound],
                    "monitor": [{"device": f"{b60}-monitor", "adminAccess": True}],
                }
            )
        )
        assert set(phases(status).values()) == {"Ready"}
        assert hardware.driver(bench.machine, bench.machine.spec.gpus[3].address) == "i915"
        hardware.assert_profile(bench.machine, "0000:9a:00.0", "max_128g_c2")
        status = bench.reach(
            manifest({"vm": [vfio(igpu)], "many": [f"{b60}-fs3-vf0", f"{flex140}-fs2-vf0"], "big": [max1550]})
        )
        assert set(phases(status).values()) == {"Ready"}
        bench.reach(manifest())
        assert_pristine(bench)


def test_devices_elsewhere_are_given_with_their_host_paths(tmp_path: Path) -> None:
    with running(tmp_path, "b50") as bench:
        bench.reach(manifest({"a": [bench.gpu]}), Options(devfs=bench.roots.devfs))
        (spec,) = specs_in(bench.cdi).values()
        node = spec["devices"][0]["containerEdits"]["deviceNodes"][0]
        assert node["hostPath"] == node["path"].replace("/dev", bench.roots.devfs, 1)


def test_shares_are_bounded_by_local_memory(tmp_path: Path) -> None:
    with running(tmp_path, "flex170") as bench:
        node, total = Node(bench), 16256 << 20
        share = {"device": f"{bench.gpu}-shared", "memory": total // 2}
        settled(node, manifest({"a": [share], "b": [share]}))
        status = node.want(manifest({"a": [share], "b": [share], "c": [{**share, "memory": 1 << 20}]}))
        assert phases(status) == {"a": "Ready", "b": "Ready", "c": "Blocked"}
        assert f"0 of {total} bytes left" in allocation(status, "c").message
        settled(node, manifest({"b": [share], "c": [{**share, "memory": 1 << 20}]}))


def test_the_gpus_own_vfio_driver(tmp_path: Path) -> None:
    with running(tmp_path, "b60") as bench:
        node = Node(bench)
        settled(node, manifest({"vm": [{"device": f"{bench.gpu}-fs2-vf0", "kernelDriver": "xe-vfio"}]}))
        assert hardware.vf_drivers(bench.machine, bench.address) == ["xe-vfio-pci", "xe"]
        settled(node, manifest({"vm": [vfio(f"{bench.gpu}-fs2-vf0")]}))
        assert hardware.vf_drivers(bench.machine, bench.address) == ["vfio-pci", "xe"]
        assert_export_changes_nothing(bench)
        settled(node, manifest())
        assert_pristine(bench)


def test_what_cannot_be_had_is_refused_and_the_rest_served(tmp_path: Path) -> None:
    with running(tmp_path, "flex140") as bench:
        node, (first, second) = Node(bench), bench.gpus
        status = node.want(
            manifest(
                {
                    "good": [f"{second}-m3-vf0"],
                    "index": [f"{first}-m3-vf3"],
                    "profile": [f"{first}-m4-vf0"],
                    "absent": ["0000-ff-00-0-0x56c0"],
                    "monitor": [f"{first}-monitor"],
                    "greedy": [{"device": f"{first}-shared", "memory": 1 << 40}],
                    "twice": [f"{second}-m3-vf0"],
                }
            )
        )
        expected = dict.fromkeys(("index", "profile", "absent", "monitor", "greedy", "twice"), "Refused")
        assert phases(status) == {"good": "Ready", **expected}
        assert "m1" in allocation(status, "profile").message
        assert "spec.manualAllocations[1].devices[0]" in allocation(status, "index").message
        hardware.assert_sound(bench)
        hardware.assert_plain(bench.machine, bench.machine.spec.gpus[0])
