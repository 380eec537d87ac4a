"""Event objects, as events.k8s.io/v1 wants them and as the older core/v1 does. Pure: times and names come in."""

import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

import msgspec

# Limits of the API's own validation, in characters (note: in bytes).
_NAME_LIMIT = 128
_NOTE_LIMIT = 1024


class EventType(Enum):
    """The only types there are."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Regarding:
    """The object an event is about; `namespace` is empty for cluster-scoped ones."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """What makes two events the same one, happening again."""

    regarding: Regarding
    type: EventType
    reason: str
    note: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who reports: the component's domain-like name, and which of its processes."""

    component: str
    instance: str


class EventForm(Protocol):
    """One of the APIs that take events."""

    def collection(self, namespace: str) -> str:
        """Where events are created."""

    def created(self, occurrence: Occurrence, source: Source, name: str, at: datetime) -> bytes:
        """The object for the first time it happens."""

    def repeated(self, occurrence: Occurrence, count: int, last: datetime) -> bytes:
        """The merge patch for having happened `count` times in all (at least 2)."""


class EventsV1:
    """events.k8s.io/v1: Kubernetes 1.19 and newer. An update may change nothing but the series."""

    def collection(self, namespace: str) -> str:
        """Where events of this group are created."""
        return f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"

    def created(self, occurrence: Occurrence, source: Source, name: str, at: datetime) -> bytes:
        """The object, without a series: it has happened once."""
        return msgspec.json.encode(
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": namespace_of(occurrence.regarding)},
                "eventTime": _micro_time(at),
                "reportingController": source.component,
                "reportingInstance": source.instance[:_NAME_LIMIT],
                "type": occurrence.type.value,
                "reason": occurrence.reason[:_NAME_LIMIT],
                "action": occurrence.action[:_NAME_LIMIT],
                "note": _cut(occurrence.note),
                "regarding": _reference(occurrence.regarding),
            }
        )

    def repeated(self, occurrence: Occurrence, count: int, last: datetime) -> bytes:
        """The merge patch of the series."""
        return msgspec.json.encode({"series": {"count": count, "lastObservedTime": _micro_time(last)}})


class CoreV1:
    """The older form of the same objects, where the group events.k8s.io is not served."""

    def collection(self, namespace: str) -> str:
        """Where core events are created."""
        return f"/api/v1/namespaces/{namespace}/events"

    def created(self, occurrence: Occurrence, source: Source, name: str, at: datetime) -> bytes:
        """The object, with a count of one."""
        return msgspec.json.encode(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": namespace_of(occurrence.regarding)},
                "firstTimestamp": _time(at),
                "lastTimestamp": _time(at),
                "count": 1,
                "source": {"component": source.component, "host": source.instance},
                "type": occurrence.type.value,
                "reason": occurrence.reason[:_NAME_LIMIT],
                "message": _cut(occurrence.note),
                "involvedObject": _reference(occurrence.regarding),
            }
        )

    def repeated(self, occurrence: Occurrence, count: int, last: datetime) -> bytes:
        """The merge patch of the count and the time of the last."""
        return msgspec.json.encode({"count": count, "lastTimestamp": _time(last)})


def namespace_of(regarding: Regarding) -> str:
    """Where an event is kept: beside its object, for cluster-scoped ones in `default`."""
    return regarding.namespace or "default"


def event_name(occurrence: Occurrence, at: datetime) -> str:
    """A name much as other reporters choose it: the object's, and numbers that differ each time and for each thing
    told. The same ones give the same name, so a creation may be repeated.
    """
    told = zlib.crc32(repr(occurrence).encode())
    return f"{occurrence.regarding.name[:220].rstrip('-.')}.{int(at.timestamp() * 1_000_000):x}-{told:08x}"


def _reference(regarding: Regarding) -> dict[str, str]:
    named = {
        "apiVersion": regarding.api_version,
        "kind": regarding.kind,
        "name": regarding.name,
        "namespace": regarding.namespace,
        "uid": regarding.uid,
    }
    return {field: value for field, value in named.items() if value}


def _cut(note: str) -> str:
    encoded = note.encode()
    return note if len(encoded) <= _NOTE_LIMIT else encoded[: _NOTE_LIMIT - 3].decode(errors="ignore") + "…"


def _micro_time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
