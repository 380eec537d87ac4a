"""Gets and lists: selection, pages, versions of the past."""

import base64
import binascii
import re
from dataclasses import dataclass

import msgspec

from kubesim.messages import Request
from kubesim.refusals import Refusal, bad_request, expired, future_version, invalid, required
from kubesim.refusals import forbidden as forbidden_cause
from kubesim.resources import Target
from kubesim.selecting import COMMON_FIELDS, Matches, field_selector, label_selector
from kubesim.state import State
from kubesim.store import ObjectKey
from kubesim.values import Object, decode, encode, objects

TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned and now may show up in the list."
)
EXACT, NOT_OLDER = "Exact", "NotOlderThan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A list, or a part of one: stored objects, the version they are of, and where to go on."""

    items: tuple[Object, ...]
    version: int
    token: str = ""
    remaining: int = 0


def matcher(target: Target, request: Request, state: State) -> Matches:
    """Whether an object is in a collection and selected. Raises Refusal (400)."""
    selected = label_selector(request.option("labelSelector"))
    resource = target.resource
    allowed = COMMON_FIELDS | state.behaviour(resource).selectable
    if resource.definition is not None:
        allowed |= _selectable(resource.definition, target.version)
    fields = field_selector(request.option("fieldSelector"), allowed)
    namespace = target.namespace if resource.namespaced else ""

    def matches(found: Object) -> bool:
        meta = found["metadata"]
        inside = not namespace or meta.get("namespace") == namespace
        named = not target.name or meta["name"] == target.name
        return inside and named and selected(meta.get("labels") or {}) and fields(found)

    return matches


def pinned_name(target: Target, request: Request) -> str:
    """The one name that a request selects, "" if it may be several."""
    selected = re.search(r"(?:^|,)metadata\.name==?([^,!=]+)(?:,|$)", request.option("fieldSelector"))
    return target.name or (selected[1] if selected else "")


def _selectable(definition: Object, version: str) -> frozenset[str]:
    for each in objects(definition["spec"]["versions"]):
        if each["name"] == version:
            return frozenset(
                field["jsonPath"].removeprefix(".") for field in objects(each.get("selectableFields"))
            )
    return frozenset()


def parse_version(text: str) -> int:
    """A resourceVersion; 0 for none. Raises Refusal (500, as the real server does, for what is no number)."""
    if not text:
        return 0
    if not text.isdigit():
        raise Refusal(
            500,
            f'resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax',
            reason="",
        )
    return int(text)


def listed(target: Target, request: Request, state: State, *, behind: int = 0) -> Page:
    """A collection as its query asks for it, `behind` changes late. Raises Refusal (400, 410, 422, 504)."""
    matches = matcher(target, request, state)
    asked = parse_version(request.option("resourceVersion"))
    exact = _checked_match(request) == EXACT
    limit = int(request.option("limit") or 0)
    token = request.option("continue")
    if token:
        version, start = _opened(token)
    else:
        if asked > state.store.version:
            raise future_version(asked, state.store.version)
        pinned = asked > 0 and (exact or (limit > 0 and not request.option("resourceVersionMatch")))
        late = max(asked, state.store.version - behind, state.store.oldest(target.resource.table))
        version, start = (asked if pinned else late if behind else -1), None
    return _page(target, state, matches, version, start, limit)


def _checked_match(request: Request) -> str:
    match = request.option("resourceVersionMatch")
    if match and not request.option("resourceVersion"):
        cause = forbidden_cause(
            "resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"
        )
        raise invalid("ListOptions", "meta.k8s.io", "", [cause])
    if match not in ("", EXACT, NOT_OLDER):
        raise invalid(
            "ListOptions", "meta.k8s.io", "", [required("resourceVersionMatch", f"unknown value {match}")]
        )
    return match


def _page(
    target: Target, state: State, matches: Matches, version: int, start: ObjectKey | None, limit: int
) -> Page:
    """`version` -1 means now."""
    store, table = state.store, target.resource.table
    if version >= 0 and version < store.oldest(table):
        if start is None:
            raise expired("The resourceVersion for the provided list is too old.")
        raise expired(TOO_OLD, resume=_token(-1, start))
    known = store.all(table) if version < 0 else store.as_of(table, version)
    found = [(key, each) for key, each in known if (start is None or key >= start) and matches(each)]
    at_version = store.version if version < 0 else version
    if not limit or len(found) <= limit:
        return Page(items=tuple(each for _, each in found), version=at_version)
    last = found[limit - 1][0]
    return Page(
        items=tuple(each for _, each in found[:limit]),
        version=at_version,
        token=_token(at_version, (last[0], last[1] + "\0")),
        remaining=len(found) - limit,
    )


def _token(version: int, start: ObjectKey) -> str:
    """A continue token, in the real server's form: the version, and the key to go on from."""
    key = "/".join(start) if start[0] else start[1]
    token = encode({"v": "meta.k8s.io/v1", "rv": version, "start": key})
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def _opened(token: str) -> tuple[int, ObjectKey]:
    text = b""
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        content = decode(text)
        version, start = int(content["rv"]), str(content["start"])
    except msgspec.DecodeError as error:
        why = f"invalid character {text[:1].decode('latin-1')!r} looking for beginning of value"
        raise bad_request(f"invalid continue token: continue key is not valid: {why}") from error
    except (binascii.Error, KeyError, TypeError, ValueError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error
    namespace, _, name = start.removeprefix("/").rpartition("/")
    return version, (namespace, name)
