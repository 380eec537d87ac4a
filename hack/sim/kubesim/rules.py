"""CEL rules of custom resources (x-kubernetes-validations), transition rules included.

Besides the language itself, the functions of Kubernetes' CEL libraries named in `FUNCTIONS` are there; a rule that
uses another is refused as one that cannot be evaluated, rather than being taken for true.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from kubesim.fieldsets import item_element
from kubesim.refusals import Cause
from kubesim.schema import Schema
from kubesim.values import Object, Value, at, objects

if TYPE_CHECKING:
    import cel

USES_OLD = re.compile(r"\boldSelf\b")
KEYWORDS = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
ESCAPES = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))
FUNCTIONS: Mapping[str, Callable[..., Value]] = {
    "indexOf": lambda whole, part: whole.find(part) if isinstance(whole, str) else _position(whole, part),
    "isSorted": lambda items: all(a <= b for a, b in pairwise(items)),
    "join": lambda items, separator="": separator.join(items),
    "lowerAscii": lambda text: text.lower(),
    "max": max,
    "min": min,
    "replace": lambda text, old, new: text.replace(old, new),
    "split": lambda text, separator: text.split(separator),
    "substring": lambda text, start, end=None: text[start:end],
    "sum": sum,
    "trim": lambda text: text.strip(),
    "upperAscii": lambda text: text.upper(),
}


def _position(items: list[Value], wanted: Value) -> int:
    return items.index(wanted) if wanted in items else -1


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled rule of a schema node."""

    program: cel.Program
    text: str
    transition: bool
    optional_old: bool
    functions: tuple[str, ...]
    raw: Object


@dataclass(frozen=True, slots=True)
class Node:
    """The rules of a schema node and of what is below it; nodes without rules are left out.

    `plain` values can be given to rules as they are.
    """

    schema: Schema
    plain: bool
    rules: tuple[Rule, ...]
    properties: Mapping[str, Node]
    values: Node | None
    items: Node | None


def compiled(schema: Schema) -> Node | None:
    """The rules of a schema, None if it has none. Raises ValueError for a rule that can't be parsed."""
    properties = {
        name: node
        for name in schema.property_names
        if (child := schema.field(name)) is not None and (node := compiled(child)) is not None
    }
    values = compiled(schema.additional) if schema.additional else None
    items = compiled(schema.items) if schema.items else None
    rules = tuple(_rule(raw) for raw in objects(schema.raw.get("x-kubernetes-validations")))
    if not (rules or properties or values or items):
        return None
    return Node(schema, _is_plain(schema), rules, properties, values, items)


def _is_plain(schema: Schema) -> bool:
    """Whether no name below needs escaping, and no number needs to become a double."""
    if schema.type == "number" or any(escaped(name) != name for name in schema.property_names):
        return False
    below = [schema.items, schema.additional, *(schema.field(name) for name in schema.property_names)]
    return all(_is_plain(child) for child in below if child is not None)


def _rule(raw: Object) -> Rule:
    import cel

    text = raw["rule"]
    return Rule(
        program=cel.compile(text),
        text=text,
        transition=USES_OLD.search(text) is not None,
        optional_old=bool(raw.get("optionalOldSelf")),
        functions=tuple(name for name in FUNCTIONS if name in text or name in raw.get("messageExpression", "")),
        raw=raw,
    )


def violations(node: Node, value: Value, old: Value, path: str) -> Iterator[Cause]:
    """The rules a value breaks. `old` is None where there is nothing to compare with."""
    for rule in node.rules:
        if rule.transition and old is None and not rule.optional_old:
            continue
        yield from _evaluated(rule, node, value, old, path)
    if isinstance(value, dict):
        for key, each in value.items():
            child = node.properties.get(key) or node.values
            if child is not None and each is not None:
                shown = f"{path}[{key}]" if key not in node.properties else f"{path}.{key}" if path else key
                yield from violations(child, each, at(old, key), shown)
    elif isinstance(value, list) and node.items is not None:
        earlier = _correlated(old, node.schema)
        for index, each in enumerate(value):
            before = earlier.get(item_element(each, node.schema)) if earlier else None
            yield from violations(node.items, each, before, f"{path}[{index}]")


def _correlated(old: Value, schema: Schema) -> dict[str, Value]:
    """The old items by identity; only associative lists have one."""
    if not isinstance(old, list) or not schema.list_keys:
        return {}
    return {item_element(each, schema): each for each in old}


def _evaluated(rule: Rule, node: Node, value: Value, old: Value, path: str) -> Iterator[Cause]:
    schema = None if node.plain else node.schema
    variables = {"self": spoken(value, schema), "oldSelf": spoken(old, schema)}
    if "fieldPath" in rule.raw:
        path = f"{path}{rule.raw['fieldPath']}".lstrip(".")
    try:
        verdict = rule.program.execute(_context(rule, variables))
    except (RuntimeError, ValueError, TypeError) as error:
        text = f"Invalid value: {_kind(value)}: rule evaluation error: {error}: {rule.text}"
        yield Cause("FieldValueInvalid", text, path or "<nil>")
        return
    if verdict is not True:
        reason = rule.raw.get("reason", "FieldValueInvalid")
        yield Cause(reason, _message(rule, variables, reason), path or "<nil>")


def _message(rule: Rule, variables: Object, reason: str) -> str:
    said = rule.raw.get("message") or f"failed rule: {rule.text}"
    if "messageExpression" in rule.raw:
        import cel

        # The server, too, falls back to the message.
        with contextlib.suppress(RuntimeError, ValueError, TypeError):
            said = cel.compile(rule.raw["messageExpression"]).execute(_context(rule, variables))
    match reason:
        case "FieldValueForbidden":
            return f"Forbidden: {said}"
        case "FieldValueRequired":
            return f"Required value: {said}"
        case "FieldValueDuplicate":
            return f"Duplicate value: {said}"
        case _:
            pass
    return f"Invalid value: {said}"


def _context(rule: Rule, variables: Object) -> cel.Context:
    import cel

    context = cel.Context(variables)
    for name in rule.functions:
        context.add_function(name, FUNCTIONS[name])
    return context


def _kind(value: Value) -> str:
    return {dict: "object", list: "array", str: "string", bool: "boolean"}.get(type(value), "number")


def spoken(value: Value, schema: Schema | None) -> Value:
    """A value as rules see it: property names escaped, numbers of type number as doubles."""
    if schema is None:
        return value
    if isinstance(value, dict):
        named = set(schema.property_names)
        return {
            (escaped(key) if key in named else key): spoken(each, schema.member(key))
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [spoken(each, schema.items) for each in value]
    if schema.type == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def escaped(name: str) -> str:
    """A property's name in CEL (Kubernetes: names that are keywords or no identifiers are escaped)."""
    if name in KEYWORDS:
        return f"__{name}__"
    for plain, written in ESCAPES:
        name = name.replace(plain, written)
    return name
