"""Complete lists in pages, and the lines of a watch: the envelopes, not what is in them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Expired, Garbled
from reconciler.runtime.kube.transport import Query

T = TypeVar("T")

PAGE = 500
"""Objects in one answer, as the API's own tools ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """An object nobody has looked into, but for its metadata. Items of a list lack kind and apiVersion."""

    key: Key
    uid: str
    resource_version: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing(Generic[T]):
    """What was made of all objects, at one resource version."""

    objects: tuple[T, ...]
    resource_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLine:
    """One event. `type` is ADDED, MODIFIED, DELETED, BOOKMARK (only its resource version counts) or ERROR (its
    body is a Status).
    """

    type: str
    object: Raw


class _Metadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class _Object(msgspec.Struct):
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)


class _ListMetadata(msgspec.Struct):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    token: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


_page_decoder = msgspec.json.Decoder(_Page)
_object_decoder = msgspec.json.Decoder(_Object)
_event_decoder = msgspec.json.Decoder(_Event)


def list_all(
    client: KubeClient, path: str, read: Callable[[Raw], T], query: Query = (), *, page: int = PAGE
) -> Listing[T]:
    """Read a whole collection as of now, `page` objects a request; raises ApiError.

    Each object is given to `read` as it comes, so that no more than a page of bytes is held. If the pages
    outlive the server's memory (410) it is all read again in one request.
    """
    try:
        return _list_paged(client, path, read, query, page)
    except Expired:
        return _list_paged(client, path, read, query, None)


def _list_paged(
    client: KubeClient, path: str, read: Callable[[Raw], T], query: Query, page: int | None
) -> Listing[T]:
    limit: Query = () if page is None else (("limit", str(page)),)
    objects: list[T] = []
    onwards: Query = ()
    while True:
        metadata, raws = _read_page(client.get(path, query + limit + onwards), path)
        objects += map(read, raws)
        if not metadata.token:
            return Listing(objects=tuple(objects), resource_version=metadata.resource_version)
        onwards = (("continue", metadata.token),)


def _read_page(body: bytes, path: str) -> tuple[_ListMetadata, list[Raw]]:
    try:
        page = _page_decoder.decode(body)
        raws = [_raw(item) for item in page.items or ()]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"not a list: {error}", status=200, about=f"GET {path}") from error
    if not page.metadata.resource_version:
        raise Garbled("a list without metadata.resourceVersion", status=200, about=f"GET {path}")
    return page.metadata, raws


def read_watch_line(line: bytes, about: str) -> WatchLine:
    """Split a line of a watch into its type and object; raises Garbled."""
    try:
        event = _event_decoder.decode(line)
        return WatchLine(type=event.type, object=_raw(event.object))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"not a watch event: {error}", status=200, about=about) from error


def _raw(body: msgspec.Raw) -> Raw:
    metadata = _object_decoder.decode(body).metadata
    return Raw(
        key=Key(namespace=metadata.namespace, name=metadata.name),
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        body=bytes(body),
    )
