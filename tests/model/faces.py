"""How the engine under test reaches the simulated kernel: by FUSE as in life, or straight, which is far faster.

Either way everything that the engine changes passes a ``Watch``: kernel attributes, and files that appear or
disappear. There it can be judged, and there an agent can be killed between any two changes.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gpusim
from gpusim import devfs_face, fuse_face
from gpusim.model.tree import Attribute, Tree
from reconciler.node import sysfs
from reconciler.node.patient_reads import PatientReads
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
    """Who hears of changes, before they happen and after; while ``on``, that is while the engine runs."""

    before: Callable[[Change], None]
    after: Callable[[Change], None]
    on: bool = False

    @contextlib.contextmanager
    def around(self, change: Change) -> Iterator[None]:
        if self.on:
            self.before(change)
        yield
        if self.on:
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
        _watch_files(patch, bench, watch)
        yield bench


def _answer_directly(patch: pytest.MonkeyPatch, tree: Tree, root: str) -> None:
    """Let sysfs.py, and what looks at files otherwise, ask the simulated kernel without going by a file system."""
    direct = _Direct(tree, root)
    for name in ("read", "read_link", "list_directory", "write"):
        patch.setattr(sysfs, name, getattr(direct, name))
    patch.setattr(os, "stat", direct.stat)
    # A thread for each read takes longer than the read.
    patch.setattr(PatientReads, "read", lambda self, key, read, **_: read())


class _Direct:
    """What sysfs.py does, over the direct face; paths elsewhere are answered as ever."""

    def __init__(self, tree: Tree, root: str) -> None:
        self._tree = tree
        self._root = f"{root}/"
        self._read, self._read_link = sysfs.read, sysfs.read_link
        self._list_directory, self._write, self._stat = sysfs.list_directory, sysfs.write, os.stat

    def read(self, path: str) -> str | Unreadable | None:
        if not path.startswith(self._root):
            return self._read(path)
        try:
            return self._tree.read(path.removeprefix(self._root)).decode().rstrip("\n")
        except OSError as error:
            return sysfs.unreadable(path, error)

    def read_link(self, path: str) -> str | Unreadable | None:
        if not path.startswith(self._root):
            return self._read_link(path)
        try:
            return self._tree.readlink(path.removeprefix(self._root))
        except OSError as error:
            return sysfs.unreadable(path, error)

    def list_directory(self, path: str) -> tuple[str, ...] | Unreadable | None:
        if not path.startswith(self._root):
            return self._list_directory(path)
        try:
            return self._tree.listdir(path.removeprefix(self._root))
        except OSError as error:
            return sysfs.unreadable(path, error)

    def write(self, path: str, value: str) -> None:
        try:
            self._tree.write(path.removeprefix(self._root), value)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error

    def stat(self, path: object, **how: object) -> os.stat_result:
        if not isinstance(path, str) or not path.startswith(self._root):
            return self._stat(path, **how)  # type: ignore[arg-type]
        real = self._tree.realpath(path.removeprefix(self._root))
        node = self._tree.find(real)
        if isinstance(node, Attribute):
            mode = stat.S_IFREG | node.mode
        else:
            mode = stat.S_IFDIR | 0o755
        return os.stat_result((mode, id(node), 0, 1, 0, 0, 0, 0, 0, 0))


def _watch_attributes(patch: pytest.MonkeyPatch, root: str, watch: Watch) -> None:
    write = sysfs.write

    def watched(path: str, value: str) -> None:
        with watch.around(Change(attribute=path.removeprefix(f"{root}/"), value=value)):
            write(path, value)

    patch.setattr(sysfs, "write", watched)


def _watch_files(patch: pytest.MonkeyPatch, bench: Bench, watch: Watch) -> None:
    """Files of the engine's own directories; those of devfs come and go by the kernel's hand."""
    rename, unlink = os.rename, os.unlink
    own = tuple(f"{root}/" for root in (bench.roots.cdi, bench.roots.run, bench.roots.state))

    def watched_rename(source: Path, target: Path) -> None:
        with watch.around(Change(file=Path(target))):
            rename(source, target)

    def watched_unlink(path: Path, *, dir_fd: int | None = None) -> None:
        if not str(path).startswith(own):
            unlink(path, dir_fd=dir_fd)
            return
        with watch.around(Change(file=Path(path), removed=True)):
            unlink(path, dir_fd=dir_fd)

    patch.setattr(os, "rename", watched_rename)
    patch.setattr(os, "unlink", watched_unlink)
