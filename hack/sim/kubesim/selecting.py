"""Label and field selectors."""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from kubesim.refusals import bad_request
from kubesim.values import Object, at

Matches: TypeAlias = Callable[[Object], bool]

_SET = re.compile(r"(?P<key>\S+)\s+(?P<operator>in|notin)\s*\((?P<values>[^)]*)\)")
_NUMBER = re.compile(r"(?P<key>\S+?)\s*(?P<operator>[<>])\s*(?P<bound>-?\d+)")
_PARTS = re.compile(r"[^,()]+(?:\([^)]*\))?")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
COMMON_FIELDS = frozenset({"metadata.name", "metadata.namespace"})


def label_selector(text: str) -> Callable[[Mapping[str, str]], bool]:
    """All of the requirements of `a=b,c!=d,e in (f,g),h,!i`. Raises Refusal (400) if it can't be read."""
    tests = [_requirement(part.strip(), text) for part in _PARTS.findall(text) if part.strip()]
    return lambda labels: all(test(labels) for test in tests)


def _requirement(part: str, whole: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.fullmatch(part):
        key, wanted = found["key"], found["operator"] == "in"
        values = frozenset(each.strip() for each in found["values"].split(","))
        return lambda labels: (labels.get(key) in values) is wanted
    if found := _NUMBER.fullmatch(part):
        key, bound, greater = found["key"], int(found["bound"]), found["operator"] == ">"
        return lambda labels: _compares(labels.get(key), bound, greater)
    if "!=" in part:
        key, _, value = (each.strip() for each in part.partition("!="))
        return lambda labels: labels.get(_checked(key, whole)) != value
    if "=" in part:
        key, _, value = (each.strip() for each in part.replace("==", "=").partition("="))
        _checked(key, whole)
        return lambda labels: labels.get(key) == value
    absent = part.startswith("!")
    key = _checked(part.removeprefix("!").strip(), whole)
    return lambda labels: (key not in labels) is absent


def _compares(label: str | None, bound: int, greater: bool) -> bool:
    if label is None or not re.fullmatch(r"-?\d+", label):
        return False
    return int(label) > bound if greater else int(label) < bound


def _checked(key: str, whole: str) -> str:
    if not _KEY.fullmatch(key):
        raise bad_request(f"unable to parse requirement: invalid label key in selector {whole!r}")
    return key


def field_selector(text: str, allowed: frozenset[str]) -> Matches:
    """All of `path=value,path!=value`. Raises Refusal (400) for a field that the kind does not offer."""
    tests = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        differs = "!=" in part
        path, _, value = part.partition("!=") if differs else part.replace("==", "=").partition("=")
        if path not in allowed:
            raise bad_request(f"field label not supported: {path}")
        tests.append(_field_test(path, value, differs))
    return lambda found: all(test(found) for test in tests)


def _field_test(path: str, value: str, differs: bool) -> Matches:
    steps = path.split(".")

    def test(found: Object) -> bool:
        present = at(found, *steps)
        shown = str(present).lower() if isinstance(present, bool) else str("" if present is None else present)
        return (shown == value) is not differs

    return test
