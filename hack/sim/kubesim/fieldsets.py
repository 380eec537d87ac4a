"""Sets of fields, as managedFields writes them (FieldsV1, KEP-555 and structured-merge-diff).

A path is a tuple of elements: "f:spec" is a field, 'k:{"name":"a"}' an item of an associative list, 'v:"x"' one of
a set. A set holds the paths of leaves; a map, or an item of an associative list, is in it by its own path as
well ("." in FieldsV1) where a manager owns that it exists.
"""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from kubesim.schema import Schema
from kubesim.values import Object, Value, quoted

Path: TypeAlias = tuple[str, ...]
Paths: TypeAlias = frozenset[Path]

EMPTY: Paths = frozenset()


def from_json(fields: Object) -> Paths:
    """Read FieldsV1."""
    return frozenset(_read(fields, ()))


def _read(fields: Object, path: Path) -> Iterator[Path]:
    for element, below in fields.items():
        if element == ".":
            yield path
        elif below:
            yield from _read(below, (*path, element))
        else:
            yield (*path, element)


def to_json(paths: Iterable[Path]) -> Object:
    """Write FieldsV1, elements sorted."""
    ordered = sorted(paths)
    root: Object = {}
    for path in ordered:
        node = root
        for element in path:
            node = node.setdefault(element, {})
    for path in ordered:
        node = root
        for element in path:
            node = node[element]
        if node:
            node["."] = {}
    return _sorted(root)


def _sorted(node: Object) -> Object:
    return {element: _sorted(node[element]) for element in sorted(node)}


def with_parents(paths: Iterable[Path]) -> Paths:
    """The paths and everything above them."""
    return frozenset(path[:length] for path in paths for length in range(1, len(path) + 1))


def item_element(item: Value, schema: Schema) -> str:
    """How an item of an associative list or a set is named."""
    if schema.is_set:
        return f"v:{quoted(item)}"
    keys = {key: key_of(item, key, schema) for key in sorted(schema.list_keys)}
    return f"k:{quoted({key: value for key, value in keys.items() if value is not None})}"


def key_of(item: Object, key: str, schema: Schema) -> Value:
    """An item's key, its default where the item leaves it out (a port's protocol)."""
    if item.get(key) is not None:
        return item[key]
    part = schema.items.field(key) if schema.items else None
    return part.raw.get("default") if part else None


def is_associative(schema: Schema | None) -> bool:
    """Whether a list's items have an identity of their own."""
    return schema is not None and (bool(schema.list_keys) or schema.is_set)


def is_granular(value: Value, schema: Schema | None) -> bool:
    """Whether fields below this value have owners of their own."""
    if isinstance(value, dict):
        return schema is None or not schema.is_atomic_map
    return isinstance(value, list) and is_associative(schema)


def children(value: Value, schema: Schema | None) -> Iterator[tuple[str, Value, Schema | None]]:
    """The parts of a granular value: element, value, schema."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield f"f:{key}", below, schema.member(key) if schema else None
    elif schema is not None:
        for item in value:
            yield item_element(item, schema), item, schema.items


def applied(value: Value, schema: Schema | None) -> Paths:
    """The set of an applied configuration: leaves, empty containers and items of associative lists."""
    return frozenset(_applied(value, schema, ()))


def _applied(value: Value, schema: Schema | None, path: Path) -> Iterator[Path]:
    if not is_granular(value, schema) or not value:
        yield path
        return
    if path and path[-1].startswith("k:"):
        yield path
    for element, below, child in children(value, schema):
        yield from _applied(below, child, (*path, element))


def changed(before: Value, after: Value, schema: Schema | None) -> tuple[Paths, Paths]:
    """What a write set (added or modified), and what it removed."""
    written: set[Path] = set()
    removed: set[Path] = set()
    _compare(before, after, schema, (), written, removed)
    return frozenset(written), frozenset(removed)


def _compare(
    before: Value, after: Value, schema: Schema | None, path: Path, written: set[Path], removed: set[Path]
) -> None:
    if before is after or before == after:
        return
    if not (is_granular(before, schema) and is_granular(after, schema) and type(before) is type(after)):
        if before is not None:
            removed.update(_everything(before, schema, path))
        if after is not None:
            fresh = frozenset(_everything(after, schema, path))
            removed.difference_update(fresh)
            written.update(fresh)
        return
    old = {element: (value, child) for element, value, child in children(before, schema)}
    new = {element: (value, child) for element, value, child in children(after, schema)}
    for element in old.keys() | new.keys():
        was, is_now = old.get(element), new.get(element)
        child = (is_now or was or (None, None))[1]
        _compare(was and was[0], is_now and is_now[0], child, (*path, element), written, removed)


def _everything(value: Value, schema: Schema | None, path: Path) -> Iterator[Path]:
    if path:
        yield path
    if is_granular(value, schema):
        for element, below, child in children(value, schema):
            yield from _everything(below, child, (*path, element))
