"""A tree like sysfs: directories, links, and attributes whose reads and writes call functions.

This is also the direct face: `read`, `write`, `listdir`, `readlink`, `exists`, `isdir` take paths below the sysfs
root (a leading slash is ignored), follow links as the real file system does, and raise OSError with the errno the
kernel would give.
"""

from __future__ import annotations

import contextlib
import errno
import posixpath
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from gpusim.model import kstrto
from gpusim.model.faults import Faults, Operation

PAGE = 4096
"""Size of every attribute as stat shows it, and the most that one write can carry."""
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A file. `show` and `store` raise OSError to refuse; `lock` is what a hanging store must hold."""

    mode: int
    show: Callable[[], bytes] | None = None
    store: Callable[[bytes], None] | None = None
    lock: threading.RLock | None = None


@dataclass(frozen=True, slots=True)
class Link:
    target: str


@dataclass(frozen=True, slots=True)
class Directory:
    children: dict[str, Node] = field(default_factory=dict)


Node = Directory | Attribute | Link


def constant(value: object) -> Attribute:
    """A read-only attribute showing the value and a newline."""
    text = f"{value}\n".encode()
    return Attribute(mode=0o444, show=lambda: text)


def shown(show: Callable[[], object]) -> Attribute:
    """A read-only attribute showing what the function returns now, and a newline."""
    return Attribute(mode=0o444, show=_line(show))


def stored(
    show: Callable[[], object], store: Callable[[bytes], None], *, lock: threading.RLock | None = None
) -> Attribute:
    """A writable attribute (0644)."""
    return Attribute(mode=0o644, show=_line(show), store=store, lock=lock)


def _line(show: Callable[[], object]) -> Callable[[], bytes]:
    def line() -> bytes:
        return f"{show()}\n".encode()

    return line


def write_only(store: Callable[[bytes], None], mode: int = 0o200) -> Attribute:
    return Attribute(mode=mode, store=store)


def join(*parts: str) -> str:
    """Join path components, dropping empty ones."""
    return "/".join(part for part in parts if part)


class Tree:
    """The nodes, and what one can do to them. Changes and look-ups of single nodes are atomic."""

    def __init__(self, faults: Faults) -> None:
        self._root = Directory()
        self._faults = faults
        self._lock = threading.Lock()

    # Building

    def add(self, path: str, node: Node) -> None:
        """Put a node, making the directories above it; a node already there is replaced."""
        parts = path.split("/")
        with self._lock:
            directory = self._root
            for part in parts[:-1]:
                below = directory.children.setdefault(part, Directory())
                if not isinstance(below, Directory):
                    raise ValueError(f"{path}: {part} is not a directory")
                directory = below
            directory.children[parts[-1]] = node

    def add_directory(self, path: str) -> None:
        """Make a directory; no-op if it is there."""
        if not isinstance(self.find(path), Directory):
            self.add(path, Directory())

    def add_link(self, path: str, target: str) -> None:
        """Put a link at `path` to another path of this tree, written relative as sysfs does."""
        self.add(path, Link(posixpath.relpath(f"/{target}", posixpath.dirname(f"/{path}"))))

    def remove(self, path: str) -> None:
        """Remove a node and all below it; no-op if it is not there."""
        parent, _, name = path.rpartition("/")
        directory = self.find(parent)
        if isinstance(directory, Directory):
            with self._lock:
                directory.children.pop(name, None)

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._root.children.clear()

    def find(self, path: str) -> Node | None:
        """The node at exactly this path, links not followed; None if there is none."""
        node: Node = self._root
        for part in path.split("/"):
            if not part:
                continue
            if not isinstance(node, Directory):
                return None
            below = node.children.get(part)
            if below is None:
                return None
            node = below
        return node

    # The direct face

    def read(self, path: str) -> bytes:
        """The whole attribute. EACCES if not readable, EISDIR, ENOENT, or what its show function raises."""
        real, attribute = self._attribute(path)
        if not attribute.mode & 0o444 or attribute.show is None:
            kstrto.fail(errno.EACCES, path)
        rule = self._faults.match(Operation.READ, real)
        if rule is None:
            return attribute.show()
        try:
            self._faults.strike(rule, path)
            return attribute.show()
        finally:
            self._faults.finish(rule)

    def write(self, path: str, data: bytes | str) -> int:
        """One write(2). Returns the number of bytes taken (at most 4096); EACCES if not writable."""
        real, attribute = self._attribute(path)
        if not attribute.mode & 0o222:
            kstrto.fail(errno.EACCES, path)
        content = (data.encode() if isinstance(data, str) else data)[:PAGE]
        if attribute.store is None:
            kstrto.fail(errno.EIO, path)
        rule = self._faults.match(Operation.WRITE, real)
        if rule is None:
            attribute.store(content)
            return len(content)
        try:
            with attribute.lock or contextlib.nullcontext():
                self._faults.strike(rule, path)
                attribute.store(content)
        finally:
            self._faults.finish(rule)
        return len(content)

    def listdir(self, path: str) -> tuple[str, ...]:
        """Names in a directory, sorted."""
        _, node = self._resolve(path)
        if not isinstance(node, Directory):
            kstrto.fail(errno.ENOTDIR, path)
        with self._lock:
            return tuple(sorted(node.children))

    def readlink(self, path: str) -> str:
        """A link's text, as written (relative). EINVAL if it is no link."""
        _, node = self._resolve(path, follow_last=False)
        if not isinstance(node, Link):
            kstrto.fail(errno.EINVAL, path)
        return node.target

    def realpath(self, path: str) -> str:
        """The path with all links resolved, below the sysfs root, without leading slash."""
        return self._resolve(path)[0]

    def exists(self, path: str) -> bool:
        """Whether something is there, dangling links followed (as os.path.exists)."""
        return self._exists(path) is not None

    def isdir(self, path: str) -> bool:
        return isinstance(self._exists(path), Directory)

    def islink(self, path: str) -> bool:
        try:
            return isinstance(self._resolve(path, follow_last=False)[1], Link)
        except OSError:
            return False

    def _exists(self, path: str) -> Node | None:
        try:
            return self._resolve(path)[1]
        except OSError:
            return None

    def _attribute(self, path: str) -> tuple[str, Attribute]:
        real, node = self._resolve(path)
        if isinstance(node, Directory):
            kstrto.fail(errno.EISDIR, path)
        assert isinstance(node, Attribute)
        return real, node

    def _resolve(self, path: str, *, follow_last: bool = True) -> tuple[str, Node]:
        todo = [part for part in reversed(path.split("/")) if part]
        done: list[str] = []
        nodes: list[Node] = [self._root]
        links = 0
        while todo:
            part = todo.pop()
            if part == ".":
                continue
            if part == "..":
                if done:
                    done.pop()
                    nodes.pop()
                continue
            node = nodes[-1]
            if not isinstance(node, Directory):
                kstrto.fail(errno.ENOTDIR, path)
            below = node.children.get(part)
            if below is None:
                kstrto.fail(errno.ENOENT, path)
            if isinstance(below, Link) and (todo or follow_last):
                links += 1
                if links > _MOST_LINKS:
                    kstrto.fail(errno.ELOOP, path)
                todo.extend(piece for piece in reversed(below.target.split("/")) if piece)
                continue
            done.append(part)
            nodes.append(below)
        return "/".join(done), nodes[-1]
