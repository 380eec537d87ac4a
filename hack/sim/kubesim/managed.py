"""Field ownership: server-side apply, and what plain writes mean for it (KEP-555)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kubesim import fieldsets
from kubesim.fieldsets import Path, Paths, children, is_associative, item_element
from kubesim.refusals import Refusal
from kubesim.schema import Schema
from kubesim.values import Object, Value, at, copy, decode, objects, sorted_text

KUBECTL = "kubectl"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
UNTRACKED_METADATA = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """One entry of metadata.managedFields."""

    name: str
    operation: str
    api_version: str
    subresource: str = ""
    time: str = ""
    paths: Paths = fieldsets.EMPTY

    def is_same(self, other: "Manager") -> bool:
        """Whether both entries are the same manager's; an applier may change the version it uses."""
        if (self.name, self.operation, self.subresource) != (other.name, other.operation, other.subresource):
            return False
        return self.operation == "Apply" or self.api_version == other.api_version

    @property
    def described(self) -> str:
        """As a conflict names it."""
        part = f' with subresource "{self.subresource}"' if self.subresource else ""
        version = f" using {self.api_version}" if self.operation == "Update" else ""
        return f'"{self.name}"{part}{version}'


def read(metadata: Object) -> list[Manager]:
    """The managers an object's metadata names."""
    return [
        Manager(
            name=entry.get("manager", ""),
            operation=entry.get("operation", ""),
            api_version=entry.get("apiVersion", ""),
            subresource=entry.get("subresource", ""),
            time=entry.get("time", ""),
            paths=fieldsets.from_json(entry.get("fieldsV1") or {}),
        )
        for entry in objects(metadata.get("managedFields"))
        if entry
    ]


def write(managers: Sequence[Manager]) -> list[Object]:
    """The entries as metadata shows them, appliers first; managers of nothing are left out."""
    ordered = sorted(
        (manager for manager in managers if manager.paths),
        key=lambda each: (each.operation, each.time, each.name, each.subresource),
    )
    return [_entry(manager) for manager in ordered]


def _entry(manager: Manager) -> Object:
    entry: Object = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": manager.api_version,
        "time": manager.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fieldsets.to_json(manager.paths),
    }
    return entry | ({"subresource": manager.subresource} if manager.subresource else {})


def tracked(whole: Object) -> Object:
    """The part of an object that has managers."""
    metadata = {key: value for key, value in whole.get("metadata", {}).items() if key not in UNTRACKED_METADATA}
    rest = {key: value for key, value in whole.items() if key not in ("apiVersion", "kind", "metadata")}
    return {"metadata": metadata, **rest} if metadata else rest


def after_update(
    before: Object | None, after: Object, schema: Schema | None, managers: Sequence[Manager], writer: Manager
) -> list[Manager]:
    """Managers after a plain write: what it set becomes the writer's, what it removed nobody's."""
    written, removed = fieldsets.changed(tracked(before) if before else {}, tracked(after), schema)
    written -= {("f:metadata",)}
    if not written and not removed:
        return list(managers)
    own = next((manager for manager in managers if manager.is_same(writer)), None)
    others = [replace(each, paths=each.paths - written - removed) for each in managers if each is not own]
    kept = (own.paths - removed) if own else fieldsets.EMPTY
    return [*others, replace(writer, paths=kept | written)]


def apply(
    live: Object,
    config: Object,
    schema: Schema | None,
    managers: Sequence[Manager],
    applier: Manager,
    *,
    force: bool,
) -> tuple[Object, list[Manager]]:
    """Merge an applied configuration: the object and its managers afterwards. Raises Refusal (409)."""
    wanted = tracked(config)
    mine = fieldsets.applied(wanted, schema) - {()}
    merged = _merged(live, wanted, schema)
    written, _ = fieldsets.changed(tracked(live), tracked(merged), schema)
    own = next((manager for manager in managers if manager.is_same(applier)), None)
    others = [manager for manager in managers if manager is not own]
    taken = {manager: manager.paths & mine & written for manager in others}
    refused = {manager: paths - _once_applied(live, applier, schema) for manager, paths in taken.items()}
    if any(refused.values()) and not force:
        raise conflict({manager: paths for manager, paths in refused.items() if paths})
    others = [replace(manager, paths=manager.paths - taken[manager]) for manager in others]
    if own is not None:
        kept = fieldsets.with_parents(mine.union(*(manager.paths for manager in others)))
        gone = fieldsets.with_parents(own.paths) - kept
        items = {path for path in gone if path[-1].startswith("k:")}  # these go as a whole, keys and all
        for path in sorted(gone, key=len, reverse=True):
            if not any(path[:length] in items for length in range(1, len(path))):
                merged = without(merged, path, schema)
    same = own is not None and own.paths == mine and own.api_version == applier.api_version and not written
    return merged, [*others, replace(applier, paths=mine, time=own.time if own and same else applier.time)]


def _once_applied(live: Object, applier: Manager, schema: Schema | None) -> Paths:
    """What `kubectl apply` set before it applied on the server: fields that are still as it wrote them."""
    text = at(live, "metadata", "annotations", LAST_APPLIED)
    if applier.name != KUBECTL or not isinstance(text, str):
        return fieldsets.EMPTY
    applied = tracked(decode(text.encode()))
    written, removed = fieldsets.changed(tracked(live), tracked(_merged(live, applied, schema)), schema)
    return fieldsets.applied(applied, schema) - written - removed


def with_last_applied(merged: Object, config: Object, applier: Manager) -> Object:
    """kubectl's annotation follows what kubectl applies, once it is there."""
    annotations = merged["metadata"].get("annotations") or {}
    if applier.name != KUBECTL or LAST_APPLIED not in annotations or applier.subresource:
        return merged
    text = sorted_text(config) + "\n"
    return {**merged, "metadata": {**merged["metadata"], "annotations": {**annotations, LAST_APPLIED: text}}}


def conflict(taken: dict[Manager, Paths]) -> Refusal:
    """409 with one cause a field."""
    pairs = [(manager, path) for manager, paths in taken.items() for path in sorted(paths)]
    if len(pairs) == 1:
        said = f"1 conflict: conflict with {pairs[0][0].described}: {shown(pairs[0][1])}"
    else:
        lists = [
            "\n".join([f"conflicts with {manager.described}:", *(f"- {shown(path)}" for path in sorted(paths))])
            for manager, paths in sorted(taken.items(), key=lambda item: item[0].described)
        ]
        said = f"{len(pairs)} conflicts: " + "\n".join(lists)
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {manager.described}",
            "field": shown(path),
        }
        for manager, path in pairs
    ]
    return Refusal(409, f"Apply failed with {said}", details={"causes": causes})


def shown(path: Path) -> str:
    """A path as people read it: .spec.devices[name="a"].mode."""
    text = ""
    for element in path:
        sort, _, rest = element.partition(":")
        if sort == "f":
            text += f".{rest}"
        elif sort == "v":
            text += f"[={rest}]"
        else:
            keys = ",".join(f"{key}={_literal(value)}" for key, value in decode(rest.encode()).items())
            text += f"[{keys}]"
    return text


def _literal(value: Value) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _merged(live: Value, wanted: Value, schema: Schema | None) -> Value:
    if isinstance(wanted, dict) and isinstance(live, dict) and not (schema and schema.is_atomic_map):
        result = dict(live)
        for key, value in wanted.items():
            result[key] = _merged(live.get(key), value, schema.member(key) if schema else None)
        return result
    if isinstance(wanted, list) and isinstance(live, list) and schema is not None and is_associative(schema):
        return _merged_list(live, wanted, schema)
    return copy(wanted)


def _merged_list(live: list[Value], wanted: list[Value], schema: Schema) -> list[Value]:
    """Items in the order of the live list, new ones behind them."""
    applied = {item_element(item, schema): item for item in wanted}
    present = {item_element(item, schema): item for item in live}
    result = [
        _merged(item, applied[element], schema.items) if element in applied and not schema.is_set else item
        for element, item in present.items()
    ]
    return result + [copy(item) for element, item in applied.items() if element not in present]


def without(value: Value, path: Path, schema: Schema | None) -> Value:
    """The value without what a path names; unchanged where there is no such thing."""
    element, below = path[0], path[1:]
    if isinstance(value, dict):
        key = element.removeprefix("f:")
        if key not in value:
            return value
        if not below:
            return {name: each for name, each in value.items() if name != key}
        child = schema.member(key) if schema else None
        return {**value, key: without(value[key], below, child)}
    if not isinstance(value, list) or schema is None or not is_associative(schema):
        return value
    result = []
    for name, item, child in children(value, schema):
        if name != element:
            result.append(item)
        elif below:
            result.append(without(item, below, child))
    return result
