"""Several simulated kernels in one process: the product's reads and writes go to the one whose files they name.

Everything that is changed passes the watch of its machine: there it can be judged, and an agent can be killed
between any two changes.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpusim import devfs_face
from gpusim.model.tree import Attribute, Tree
from reconciler.node import sysfs
from reconciler.node.patient_reads import PatientReads
from state.observed import Unreadable
from tests.engine.machines import Bench
from tests.model.faces import Change, Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A machine, where its files are, and who hears of changes."""

    bench: Bench
    watch: Watch

    @property
    def tree(self) -> Tree:
        return self.bench.machine.sysfs

    def owns(self, path: str) -> bool:
        """Whether a file is the node agent's, on this machine."""
        roots = self.bench.roots
        return path.startswith(tuple(f"{root}/" for root in (roots.cdi, roots.run, roots.state)))


class Kernels:
    """What sysfs.py does, over the direct faces of all machines; other paths are answered as ever."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._read, self._read_link = sysfs.read, sysfs.read_link
        self._list_directory, self._write, self._stat = sysfs.list_directory, sysfs.write, os.stat
        self._rename, self._unlink = os.rename, os.unlink

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """While this lasts, files of machines that were added are theirs."""
        with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as self._closing:
            for name in ("read", "read_link", "list_directory", "write"):
                patch.setattr(sysfs, name, getattr(self, name))
            for name in ("stat", "rename", "unlink"):
                patch.setattr(os, name, getattr(self, name))
            # A thread for each read takes longer than the read.
            patch.setattr(PatientReads, "read", lambda self, key, read, **_: read())
            yield

    def add(self, place: Place) -> None:
        bench = place.bench
        self._places[f"{bench.roots.sysfs}/"] = place
        self._closing.callback(bench.machine.listen(bench.hear))
        self._closing.enter_context(devfs_face.kept_in_step(bench.machine.nodes, Path(bench.roots.devfs)))

    def read(self, path: str) -> str | Unreadable | None:
        found = self._find(path)
        if found is None:
            return self._read(path)
        tree, below, _ = found
        try:
            return tree.read(below).decode().rstrip("\n")
        except OSError as error:
            return sysfs.unreadable(path, error)

    def read_link(self, path: str) -> str | Unreadable | None:
        found = self._find(path)
        if found is None:
            return self._read_link(path)
        tree, below, _ = found
        try:
            return tree.readlink(below)
        except OSError as error:
            return sysfs.unreadable(path, error)

    def list_directory(self, path: str) -> tuple[str, ...] | Unreadable | None:
        found = self._find(path)
        if found is None:
            return self._list_directory(path)
        tree, below, _ = found
        try:
            return tree.listdir(below)
        except OSError as error:
            return sysfs.unreadable(path, error)

    def write(self, path: str, value: str) -> None:
        found = self._find(path)
        if found is None:
            self._write(path, value)
            return
        tree, below, watch = found
        with watch.around(Change(attribute=below, value=value)):
            try:
                tree.write(below, value)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error

    def stat(self, path: object, **how: object) -> os.stat_result:
        found = self._find(path) if isinstance(path, str) else None
        if found is None:
            return self._stat(path, **how)  # type: ignore[arg-type]
        tree, below, _ = found
        node = tree.find(tree.realpath(below))
        mode = stat.S_IFREG | node.mode if isinstance(node, Attribute) else stat.S_IFDIR | 0o755
        return os.stat_result((mode, id(node), 0, 1, 0, 0, 0, 0, 0, 0))

    def rename(self, source: Path, target: Path) -> None:
        with self._noting(target, removed=False):
            self._rename(source, target)

    def unlink(self, path: Path, *, dir_fd: int | None = None) -> None:
        with self._noting(path, removed=True):
            self._unlink(path, dir_fd=dir_fd)

    def _find(self, path: str) -> tuple[Tree, str, Watch] | None:
        for root, place in self._places.items():
            if path.startswith(root):
                return place.tree, path.removeprefix(root), place.watch
        return None

    @contextlib.contextmanager
    def _noting(self, path: Path, *, removed: bool) -> Iterator[None]:
        for place in self._places.values():
            if place.owns(str(path)):
                with place.watch.around(Change(file=Path(path), removed=removed)):
                    yield
                return
        yield
