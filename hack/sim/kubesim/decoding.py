"""From what a client sent to what the server keeps: unknown fields go, types are checked, defaults come in."""

from dataclasses import dataclass, field

from kubesim.documents import object_meta
from kubesim.refusals import Refusal, bad_request
from kubesim.resources import Target
from kubesim.schema import Schema
from kubesim.values import Object, Value, copy

PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
GO_NAMES = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
GO_TYPES = {"string": "string", "boolean": "bool", "number": "float64", "object": "map[string]interface {}"}
STRICT, WARN, IGNORE = "Strict", "Warn", "Ignore"


@dataclass(slots=True)
class Findings:
    """What decoding left out: the paths of unknown fields."""

    unknown: list[str] = field(default_factory=list)


def decode_builtin(whole: Object, target: Target, findings: Findings) -> Object:
    """As encoding/json decodes into a Go struct. Raises Refusal (400) for a value of the wrong type."""
    schema = target.schema
    if schema is None:
        return copy(whole)  # type: ignore[no-any-return]
    decoder = _GoDecoder(target, findings)
    decoded: Object = decoder.value(whole, schema, "", "")
    return decoded


def decode_part(part: Value, schema: Schema, path: str, target: Target, findings: Findings) -> Value:
    """One part of an object, whose place is `path`. Raises Refusal (400)."""
    return _GoDecoder(target, findings).value(part, schema, path, "")


class _GoDecoder:
    """Walks a value and its schema, with the words of encoding/json for errors."""

    def __init__(self, target: Target, findings: Findings) -> None:
        self._target = target
        self._findings = findings

    def value(self, value: Value, schema: Schema, path: str, struct: str) -> Value:
        if schema.keeps_unknown or schema.int_or_string or not schema.type:
            return copy(value)
        if not isinstance(value, PYTHON_TYPES[schema.type]) or (
            isinstance(value, bool) and schema.type in ("integer", "number")
        ):
            raise self._wrong_type(value, schema, path, struct)
        if isinstance(value, dict):
            return self._object(value, schema, path)
        if isinstance(value, list):
            items = schema.items
            return [
                self.value(each, items, f"{path}[{index}]", struct) if items else copy(each)
                for index, each in enumerate(value)
                if each is not None or items is None
            ]
        return value

    def _object(self, value: Object, schema: Schema, path: str) -> Object:
        struct = schema.name.rpartition(".")[2]
        result: Object = {}
        for key, each in value.items():
            child = schema.member(key)
            below = f"{path}.{key}" if path else key
            if child is None:
                if not schema.raw.get("additionalProperties"):
                    self._findings.unknown.append(below)
                else:
                    result[key] = copy(each)
            elif each is not None and not (_is_left_out(each, child) and key not in _kept(schema)):
                result[key] = self.value(each, child, below, struct)
        return result

    def _wrong_type(self, value: Value, schema: Schema, path: str, struct: str) -> Refusal:
        plain = "".join(part.partition("]")[2] if index else part for index, part in enumerate(path.split("[")))
        message = f"json: cannot unmarshal {GO_NAMES[type(value)]} into Go struct field {struct}.{plain} of type "
        return self.refusal(message + _go_type(schema))

    def refusal(self, message: str) -> Refusal:
        kind = self._target.resource.kind
        return bad_request(f'{kind} in version "{self._target.version}" cannot be handled as a {kind}: {message}')


def _is_left_out(value: Value, schema: Schema) -> bool:
    """Whether Go leaves a field out: empty lists and maps, but not empty structs."""
    return value == [] or (value == {} and schema.is_map)


def _kept(schema: Schema) -> tuple[str, ...]:
    """The fields of a Go struct that show even if empty: required ones, and those of which rules need to know."""
    return (*schema.raw.get("required", ()), "devices", "sharedCounters")


def _go_type(schema: Schema) -> str:
    if schema.type == "array":
        return f"[]{_go_type(schema.items)}" if schema.items else "[]interface {}"
    if schema.is_map and schema.additional:
        return f"map[string]{_go_type(schema.additional)}"
    if schema.name:
        return schema.go_type
    if schema.type == "integer":
        return str(schema.raw.get("format", "int64"))
    return GO_TYPES.get(schema.type, "interface {}")


def prune(value: Value, schema: Schema, path: str, findings: Findings) -> Value:
    """A custom object without the fields its structural schema does not know."""
    if isinstance(value, list):
        items = schema.items
        return [prune(each, items, f"{path}[{i}]", findings) if items else each for i, each in enumerate(value)]
    if not isinstance(value, dict) or (schema.raw.get("additionalProperties") is True):
        return value
    result: Object = {}
    for key, each in value.items():
        child = schema.member(key)
        below = f"{path}.{key}" if path else key
        if child is not None:
            result[key] = prune(each, child, below, findings)
        elif schema.keeps_unknown or (schema.embedded and key in ("apiVersion", "kind", "metadata")):
            result[key] = each
        else:
            findings.unknown.append(below)
    return result


def default(value: Value, schema: Schema) -> Value:
    """A custom object with the defaults of its schema; null is replaced by a default unless it is allowed."""
    if isinstance(value, dict):
        result = dict(value)
        for key in schema.property_names:
            child = schema.field(key)
            if child is None or "default" not in child.raw:
                continue
            if key not in result or (result[key] is None and not child.nullable):
                result[key] = copy(child.raw["default"])
        for key, each in result.items():
            below = schema.member(key)
            if below is not None:
                result[key] = default(each, below)
        return result
    if isinstance(value, list) and schema.items is not None:
        return [default(each, schema.items) for each in value]
    return value


def decode_custom(body: Object, target: Target, findings: Findings, *, defaults: bool) -> Object:
    """As the server decodes a custom resource: metadata typed, the rest pruned and given its defaults."""
    schema = target.schema
    result: Object = {key: body[key] for key in ("apiVersion", "kind") if key in body}
    meta = body.get("metadata")
    if meta is not None:
        result["metadata"] = decode_part(meta, object_meta(), "metadata", target, findings)
    rest = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    if schema is None:
        return result | rest
    rest = prune(rest, schema, "", findings)
    kept: Object = default(rest, schema) if defaults else copy(rest)
    return result | kept


def decoded(target: Target, body: Object, validation: str, *, defaults: bool = True) -> tuple[Object, list[str]]:
    """A body without what nobody knows, with a custom resource's defaults, and warnings. Raises Refusal (400)."""
    findings = Findings()
    if target.resource.custom:
        result = decode_custom(body, target, findings, defaults=defaults)
    else:
        result = decode_builtin(body, target, findings)
    if not isinstance(result.get("metadata"), dict):
        result["metadata"] = {}
    return result, report(findings, target, validation)


def report(findings: Findings, target: Target, validation: str) -> list[str]:
    """Warnings for unknown fields. Raises Refusal (400) if the client asked for strictness."""
    said = [f'unknown field "{path}"' for path in findings.unknown]
    if not said or validation == IGNORE:
        return []
    if validation == STRICT:
        kind = target.resource.kind
        raise bad_request(
            f'{kind} in version "{target.version}" cannot be handled as a {kind}: '
            f"strict decoding error: {', '.join(said)}"
        )
    return said
