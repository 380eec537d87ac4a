"""How the engine under test reaches the simulated kernel: by FUSE as in life, or straight, which is 50 times faster.

Either way everything that the engine changes passes a ``Watch``: kernel attributes, and files that appear or
disappear. There it can be judged, and there an agent can be killed between any two changes.
"""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gpusim
import pytest
from gpusim import devfs_face, fuse_face

from reconciler.node import sysfs
from state.observed import Unreadable
from tests.engine.machines import Bench


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something the engine is about to change: an attribute (path below sysfs and value) or a file."""

    attribute: str = ""
    value: str = ""
    file: Path | None = None
    removed: bool = False

    def __str__(self) -> str:
        if self.file is not None:
            return f"{'remove' if self.removed else 'write'} {self.file.name}"
        return f"{self.value!r} to {self.attribute}"


@dataclass(slots=True)
class Watch:
    """Who hears of changes, before they happen and after."""

    before: Callable[[Change], None] = lambda _: None
    after: Callable[[Change], None] = lambda _: None

    @contextlib.contextmanager
    def around(self, change: Change) -> Iterator[None]:
        self.before(change)
        yield
        self.after(change)


@contextlib.contextmanager
def served(machine: gpusim.Machine, where: Path, watch: Watch, *, fuse: bool) -> Iterator[Bench]:
    """The machine, switched on at ``where``, with all changes passing ``watch``."""
    os.makedirs(where / "sys")
    bench = Bench(machine, where)
    stop = machine.listen(bench.hear)
    with contextlib.ExitStack() as closing:
        closing.callback(stop)
        patch = closing.enter_context(pytest.MonkeyPatch.context())
        closing.enter_context(devfs_face.kept_in_step(machine.nodes, where / "dev"))
        if fuse:
            closing.enter_context(fuse_face.mounted(machine.sysfs, where / "sys"))
        else:
            _answer_directly(patch, machine.sysfs, bench.roots.sysfs)
        _watch_attributes(patch, bench.roots.sysfs, watch)
        _watch_files(patch, where, watch)
        yield bench


def _answer_directly(patch: pytest.MonkeyPatch, tree: object, root: str) -> None:
    """Let sysfs.py, and what looks at files otherwise, ask the simulated kernel without going by a file system."""
    sim = _Direct(tree, root)
    patch.setattr(sysfs, "read", sim.read)
    patch.setattr(sysfs, "read_link", sim.read_link)
    patch.setattr(sysfs, "list_directory", sim.list_directory)
    patch.setattr(sysfs, "write", sim.write)
    patch.setattr(os, "stat", sim.stat)


class _Direct:
    """The functions of sysfs.py over the direct face; paths elsewhere go where they always went."""

    def __init__(self, tree: object, root: str) -> None:
        assert isinstance(tree, gpusim.Machine) is False
        self._tree = tree
        self._root = f"{root}/"
        self._read, self._read_link = sysfs.read, sysfs.read_link
        self._list, self._write, self._stat = sysfs.list_directory, sysfs.write, os.stat
