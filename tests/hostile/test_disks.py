"""Disks that are full or read-only: nothing is done that can't be recorded, and later all goes on."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from state.status import NodeStatus
from tests.cdi_rules import specs_in
from tests.engine import hardware
from tests.engine.hardware import assert_pristine
from tests.engine.machines import (
    Bench,
    Node,
    blocked,
    cards,
    is_ready,
    manifest,
    phases,
    running,
    vf_claim,
    why_not,
)

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ONE, OTHER = "0000:03:00.0", "0000:04:00.0"
SIZE = 256 * 1024


@contextlib.contextmanager
def disk(where: Path) -> Iterator[Path]:
    """A small file system of its own at a directory, with what was there."""
    there = [path.name for path in where.iterdir() if path.is_dir()]
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(where)], check=True)
    try:
        for name in there:
            (where / name).mkdir()
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@contextlib.contextmanager
def spoiled(where: Path, how: str) -> Iterator[None]:
    """Full, or read-only, until the end of the context."""
    if how == "read-only":
        _remount(where, "ro")
        yield
        _remount(where, "rw")
        return
    ballast = where / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    yield
    ballast.unlink()


def _remount(where: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(where)], check=True)


WORDS = {"full": "No space left", "read-only": "Read-only file system"}
by_how = pytest.mark.parametrize("how", WORDS)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with running(tmp_path, cards(("flex170", ONE), ("b60", OTHER))) as machine:
        yield machine


def wanted(bench: Bench) -> dict[str, object]:
    return manifest({"a": [f"{bench.gpus[0]}-m2-vf0"], "b": [f"{bench.gpus[1]}-fs2-vf0"]})


def ready_at_last(node: Node, spec: dict[str, object]) -> NodeStatus:
    """With the disk well again, and some time to look again, all is as wanted."""
    node.bench.want(spec)
    node.settle("resync")
    return node.wait_ready(600)


def temporaries(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.startswith(".tmp")]


@by_how
def test_what_cannot_be_recorded_is_not_done(how: str, bench: Bench) -> None:
    """The ownership record comes before the first write to the hardware, so without it nothing is written."""
    with disk(Path(bench.roots.state)) as state:
        node = Node(bench)
        node.want(manifest())
        with spoiled(state, how):
            node.want(wanted(bench))
            assert node.writes == []
            assert "a record can't be written" in blocked(node.status)
            assert WORDS[how] in blocked(node.status)
            for gpu in bench.machine.spec.gpus:
                hardware.assert_plain(bench.machine, gpu)
        ready_at_last(node, wanted(bench))
        ready_at_last(node, manifest())
        assert temporaries(state) == []
        assert_pristine(bench)


@by_how
def test_what_was_given_stays_while_the_record_cannot_be_changed(how: str, bench: Bench) -> None:
    """Taking away is recorded too. What runs goes on running."""
    with disk(Path(bench.roots.state)) as state:
        node = Node(bench)
        assert is_ready(node.want(wanted(bench)))
        before = len(node.writes), specs_in(bench.cdi)
        with spoiled(state, how):
            node.want(manifest({"b": [f"{bench.gpus[1]}-fs2-vf0"], "c": [f"{bench.gpus[0]}-m4-vf0"]}))
            assert (len(node.writes), specs_in(bench.cdi)) == before
        ready_at_last(node, wanted(bench))
        ready_at_last(node, manifest())
        assert_pristine(bench)


@by_how
def test_without_room_for_cdi_specs_nothing_is_called_ready(how: str, bench: Bench) -> None:
    with disk(bench.cdi) as cdi:
        node = Node(bench)
        node.want(manifest())
        with spoiled(cdi, how):
            node.want(wanted(bench))
            node.wait(2)
            assert phases(node.status) == {"a": "Failed", "b": "Failed"}
            assert WORDS[how] in why_not(node.status)
            assert specs_in(cdi) == {}
            assert temporaries(cdi) == []
        ready_at_last(node, wanted(bench))
        ready_at_last(node, manifest())
        assert_pristine(bench)


@by_how
def test_without_room_for_records_of_claims_nothing_is_confirmed(how: str, bench: Bench) -> None:
    """The held record and the status live beside each other; no status says more than the held record."""
    with disk(Path(bench.roots.status_dir)) as run:
        node = Node(bench, cluster=True)
        assert is_ready(node.want(manifest(claims={"u1": vf_claim(bench.gpus[0], "flex170_m2", 0)})))
        with spoiled(run, how):
            bench.mark("u1")
            node.settle()
            assert node.nonces == {}
            assert "a record can't be written" in blocked(node.status)
        node.settle("resync")
        node.wait(60)
        assert node.nonces == {"u1": "n1"}
        assert temporaries(run) == []
