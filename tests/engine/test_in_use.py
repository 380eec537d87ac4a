"""What somebody uses stays: prepared claims, open device nodes, and what may be behind hidden processes."""

from pathlib import Path

import pytest

from reconciler.node.agent import Settings
from reconciler.node.users import Visibility
from state.planning import Options
from tests.cdi_rules import specs_in
from tests.engine import hardware
from tests.engine.hardware import assert_pristine, assert_sound
from tests.engine.machines import (
    Bench,
    Node,
    allocation,
    cards,
    is_ready,
    manifest,
    phases,
    running,
    vf_claim,
    vfio,
    why_not,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ONE, OTHER = "0000:03:00.0", "0000:83:00.0"


def card_of(bench: Bench, address: str) -> str:
    """The card node of a function, relative to devfs."""
    names = bench.machine.sysfs.listdir(f"{hardware.pf(address)}/drm")
    return next(f"dri/{name}" for name in names if name.startswith("card"))


def hidden(bench: Bench, *forced: str) -> Settings:
    options = Options(force_release=frozenset(forced))
    return Settings(version="test", options=options, visibility=Visibility.HIDDEN, patience=20.0)


def test_a_prepared_claim_keeps_its_vf_until_unprepare(tmp_path: Path) -> None:
    with running(tmp_path, cards(("flex170", ONE), ("b60", OTHER))) as bench:
        node, (pf, other) = Node(bench, cluster=True), bench.gpus
        first = vf_claim(pf, "flex170_m2", 0)
        second = vf_claim(pf, "flex170_m1", 0)
        elsewhere = vf_claim(other, "fs2", 1)
        assert is_ready(node.want(manifest(claims={"uid-1": first})))
        bench.mark("uid-1")
        node.settle()
        assert node.nonces == {"uid-1": "n1"}
        assert allocation(node.status, "uid-1").in_use
        assert_sound(bench)
        # The entry goes, another mode is wanted, the entry changes: the VF stays, others go on.
        node.want(manifest(claims={"uid-2": second, "uid-3": elsewhere}))
        assert phases(node.status) == {"uid-1": "Releasing", "uid-2": "Blocked", "uid-3": "Ready"}
        assert "uid-1" in allocation(node.status, "uid-2").message
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        node.want(manifest(claims={"uid-1": vf_claim(pf, "flex170_m2", 1)}))
        assert phases(node.status) == {"uid-1": "Blocked"}
        assert "intel.com-gpu_claim-uid-1.json" in specs_in(bench.cdi)
        # A restart changes nothing.
        node = Node(bench, cluster=True)
        node.want(manifest(claims={"uid-2": second}))
        assert phases(node.status) == {"uid-1": "Releasing", "uid-2": "Blocked"}
        assert node.nonces == {"uid-1": "n1"}
        bench.unmark("uid-1")
        node.settle()
        assert is_ready(node.status), why_not(node.status)
        hardware.assert_profile(bench.machine, ONE, "flex170_m1")
        assert node.want(manifest(claims={})) is not None
        assert is_ready(node.status), why_not(node.status)
        assert_pristine(bench)


def test_a_mark_before_its_entry_is_confirmed_when_the_entry_is_there(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench, cluster=True)
        bench.mark("uid-1")
        node.want(manifest())
        assert node.nonces == {}
        node.want(manifest(claims={"uid-1": vf_claim(bench.gpu, "fs2", 0)}))
        assert is_ready(node.status), why_not(node.status)
        assert node.nonces == {"uid-1": "n1"}
        bench.unmark("uid-1")
        bench.mark("uid-1", "n2")
        node.settle()
        assert node.nonces == {"uid-1": "n2"}
        bench.unmark("uid-1")
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_without_the_held_record_nothing_is_taken_away(damage: str, tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        claims = {"uid-1": vf_claim(bench.gpu, "fs2", 0)}
        assert is_ready(Node(bench, cluster=True).want(manifest(claims=claims)))
        bench.mark("uid-1")
        Node(bench, cluster=True).settle()
        held = Path(bench.roots.held_file)
        held.unlink() if damage == "missing" else held.write_text("{")
        node = Node(bench, cluster=True)
        node.want(manifest())
        node.wait(600)
        assert hardware.num_vfs(bench.machine, ONE) == 2
        assert "intel.com-gpu_claim-uid-1.json" in specs_in(bench.cdi)
        node.want(manifest(claims=claims))
        assert is_ready(node.status), why_not(node.status)
        assert node.nonces == {"uid-1": "n1"}
        bench.unmark("uid-1")
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_a_mark_of_the_boot_before_holds_nothing(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        claims = {"uid-1": vf_claim(bench.gpu, "fs2", 0)}
        bench.mark("uid-1")
        assert is_ready(Node(bench, cluster=True).want(manifest(claims=claims)))
        mark = Path(bench.roots.marks_dir, "uid-1.json")
        content = mark.read_bytes()
        bench.reboot()
        mark.write_bytes(content)
        node = Node(bench, cluster=True)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_released_by_hand(tmp_path: Path) -> None:
    """A released claim's mark is listed for the plugin to delete, unless a process still has its node open."""
    with running(tmp_path, cards(("b60", ONE))) as bench:
        claims = {"uid-1": vf_claim(bench.gpu, "fs2", 0)}
        bench.mark("uid-1")
        node = Node(bench, cluster=True)
        assert is_ready(node.want(manifest(claims=claims)))
        (vf, _) = hardware.vf_addresses(bench.machine, ONE)
        bench.start_process(77, "python", card_of(bench, vf))
        node.want(manifest(claims=claims, releases=["uid-1"]))
        assert node.passes[-1].plan.released == {}
        assert hardware.num_vfs(bench.machine, ONE) == 2
        bench.end_process(77)
        node.settle("resync")
        assert node.passes[-1].plan.released == {"uid-1": "n1"}
        bench.unmark("uid-1")
        node.settle()
        node.want(manifest(releases=["uid-1"]))
        assert is_ready(node.status), why_not(node.status)
        assert_pristine(bench)


def test_a_claim_that_its_kubelet_forgot(tmp_path: Path) -> None:
    """The kubelet of 1.26 may never give it back. Its mark goes once it is sure that nobody uses it any more."""
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node, device = Node(bench, cluster=True), vf_claim(bench.gpu, "fs2", 0)
        bench.mark("uid-1", grpc_version="v1alpha1")
        bench.mark("uid-2", grpc_version="v1alpha2")
        node.want(manifest(claims={"uid-1": device, "uid-2": vf_claim(bench.gpu, "fs2", 1)}))
        vf = hardware.vf_addresses(bench.machine, ONE)[0]
        bench.start_process(7, "python", card_of(bench, vf))
        node.want(manifest())
        node.wait(3600)  # not registered: no kubelet could have given it back
        assert node.passes[-1].plan.released == {}
        with bench.registered():
            node.settle()
            node.wait(310)
            assert node.passes[-1].plan.released == {}
            bench.end_process(7)
            node = Node(bench, cluster=True)  # after a restart the time begins anew
            node.settle()
            node.wait(299)
            assert node.passes[-1].plan.released == {}
            node.wait(10)
            assert node.listed == {"uid-1": "n1"}
            bench.unmark("uid-1")
            node.settle()
        assert node.listed == {}
        assert phases(node.status) == {"uid-2": "Releasing"}


def test_an_open_node_keeps_vfs_and_whole_gpus(tmp_path: Path) -> None:
    with running(tmp_path, cards(("flex170", ONE), ("b60", OTHER))) as bench:
        node, (pf, other) = Node(bench), bench.gpus
        assert is_ready(node.want(manifest({"vf": [f"{pf}-m2-vf0"], "whole": [other]})))
        vf = hardware.vf_addresses(bench.machine, ONE)[0]
        bench.start_process(77, "python", card_of(bench, vf))
        bench.start_process(78, "blender", card_of(bench, OTHER))
        node.want(manifest({"a": [pf], "b": [f"{other}-fs2-vf0"]}))
        assert {phases(node.status)[name] for name in ("a", "b")} == {"Blocked"}
        assert "process 77 (python)" in allocation(node.status, "a").message
        assert "process 78 (blender)" in allocation(node.status, "b").message
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        bench.end_process(77)
        node.settle("resync")
        assert phases(node.status)["a"] == "Ready"
        assert phases(node.status)["b"] == "Blocked"
        bench.end_process(78)
        node.settle("resync")
        assert is_ready(node.status), why_not(node.status)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_a_monitor_keeps_only_the_driver(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        node = Node(bench)
        bench.start_process(77, "exporter", card_of(bench, ONE))
        assert is_ready(node.want(manifest({"vf": [f"{bench.gpu}-fs2-vf0"]})))
        assert is_ready(node.want(manifest({"vf": [f"{bench.gpu}-fs4-vf0"]})))
        node.want(manifest({"vm": [vfio(bench.gpu)]}))
        assert phases(node.status) == {"vm": "Blocked"}
        assert "process 77 (exporter)" in allocation(node.status, "vm").message
        bench.end_process(77)
        node.settle("resync")
        assert is_ready(node.status), why_not(node.status)
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_behind_hidden_processes_nothing_existing_is_disturbed(tmp_path: Path) -> None:
    with running(tmp_path, cards(("b60", ONE))) as bench:
        assert is_ready(Node(bench).want(manifest({"vf": [f"{bench.gpu}-fs2-vf0"]})))
        node = Node(bench, settings=hidden(bench))
        node.want(manifest({"whole": [bench.gpu]}))
        assert phases(node.status)["whole"] == "Blocked"
        assert "--force-release vf" in allocation(node.status, "whole").message
        assert hardware.num_vfs(bench.machine, ONE) == 2
        node = Node(bench, settings=hidden(bench, "vf"))
        node.settle()
        assert is_ready(node.status), why_not(node.status)
        node = Node(bench, settings=hidden(bench, "vf", "whole"))
        assert is_ready(node.want(manifest()))
        assert_pristine(bench)


def test_restarts_at_every_pass(tmp_path: Path) -> None:
    """A new agent for each pass gets everywhere a lasting one does."""

    def alone(wanted: dict[str, object]) -> None:
        bench.want(wanted)
        node = Node(bench)
        for _ in range(40):
            if not node.once("files"):
                break
            node = Node(bench)
        assert is_ready(node.status), why_not(node.status)
        assert_sound(bench)

    with running(tmp_path, cards(("flex170", ONE), ("b60", OTHER), total=2)) as bench:
        pf, other = bench.gpus
        alone(manifest({"a": [f"{pf}-m2-vf1"], "b": [vfio(other)]}))
        hardware.assert_profile(bench.machine, ONE, "flex170_m2")
        alone(manifest({"a": [f"{pf}-m1-vf0"], "b": [vfio(f"{other}-fs2-vf0"), f"{other}-fs2-vf1"]}))
        alone(manifest({"a": [vfio(pf)]}))
        alone(manifest())
        assert_pristine(bench)


def test_broken_records(tmp_path: Path) -> None:
    """A broken status file is replaced; a broken record of what is ours is rebuilt from it, or freezes all."""
    with running(tmp_path, cards(("b60", ONE))) as bench:
        wanted = manifest({"vf": [f"{bench.gpu}-fs2-vf0"]})
        assert is_ready(Node(bench).want(wanted))
        Path(bench.roots.status_file).write_text('{"formatVersion": 1')
        node = Node(bench)
        node.settle()
        assert is_ready(node.status), why_not(node.status)
        ownership = Path(bench.roots.ownership_file)
        ownership.write_text("{")
        node = Node(bench)
        node.settle()
        assert phases(node.status) == {"vf": "Ready"}
        assert hardware.num_vfs(bench.machine, ONE) == 2
        assert (ownership.parent / f"{ownership.name}.corrupt-1").exists()
        ownership.write_text("{")
        Path(bench.roots.status_file).unlink()
        node = Node(bench)
        node.want(manifest())
        node.wait(600)
        assert hardware.num_vfs(bench.machine, ONE) == 2
