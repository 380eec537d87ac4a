"""A machine's device nodes as a directory that is kept in step."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from gpusim.model.nodes import DeviceNode, DeviceNodes, NodeLink

_NULL = os.makedev(1, 3)
"""What real nodes are: openable anywhere, and harmless."""


@contextlib.contextmanager
def kept_in_step(nodes: DeviceNodes, where: Path, *, real_nodes: bool = False) -> Iterator[Path]:
    """Fill `where` with the nodes and follow every change for the time of the context, then empty it.

    Nodes are empty regular files; with `real_nodes` (root only) character devices 1:3, as /dev/null.
    """
    for name in ("dri", "vfio"):
        shutil.rmtree(where / name, ignore_errors=True)
    where.mkdir(parents=True, exist_ok=True)

    def follow(path: str, node: DeviceNode | None) -> None:
        _remove(where, path)
        if node is not None:
            _make(where / path, node, real_nodes)

    stop = nodes.follow(follow)
    try:
        yield where
    finally:
        stop()
        for path in nodes.snapshot():
            _remove(where, path)


def _make(path: Path, node: DeviceNode, real_nodes: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(node, NodeLink):
        path.symlink_to(node.target)
    elif real_nodes:
        os.mknod(path, 0o666 | stat.S_IFCHR, _NULL)
        path.chmod(0o666)
    else:
        path.touch(0o666)


def _remove(where: Path, path: str) -> None:
    """Remove a node and the directories that it leaves empty, as devtmpfs does."""
    (where / path).unlink(missing_ok=True)
    parent = (where / path).parent
    while parent != where:
        try:
            parent.rmdir()
        except OSError:
            return
        parent = parent.parent
