"""The plain face: a snapshot of a tree as ordinary directories, files and links.

For parsers and timing only: nothing answers there, every file can be written, sizes are those of the contents.
"""

from __future__ import annotations

from pathlib import Path

from gpusim.model.tree import Attribute, Directory, Link, Tree


def write_tree(tree: Tree, where: Path) -> int:
    """Write all of a tree below an existing or new directory; returns the number of files and links.

    Write-only attributes become empty files; an attribute whose show function refuses is left out.
    """
    return _write_directory(tree, "", where)


def _write_directory(tree: Tree, path: str, where: Path) -> int:
    where.mkdir(parents=True, exist_ok=True)
    written = 0
    for name in tree.listdir(path):
        below = f"{path}/{name}".lstrip("/")
        node = tree.find(below)
        if isinstance(node, Directory):
            written += _write_directory(tree, below, where / name)
        elif isinstance(node, Link):
            (where / name).symlink_to(node.target)
            written += 1
        elif isinstance(node, Attribute):
            written += _write_attribute(node, where / name)
    return written


def _write_attribute(attribute: Attribute, where: Path) -> int:
    try:
        content = attribute.show() if attribute.show is not None else b""
    except OSError:
        return 0
    where.write_bytes(content)
    where.chmod(attribute.mode)
    return 1
