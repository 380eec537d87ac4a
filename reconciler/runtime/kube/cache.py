"""What an API server has, as far as a watch has told: readable from any thread, written by one reflector."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Key(NamedTuple):
    """An object of one resource; `namespace` is empty for cluster-scoped ones."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached(Generic[T]):
    """One object as last read. A name that comes back with another uid is another object.

    `undecodable` says why a newer state of this object could not be read, if so: then `value` and
    `resource_version` are those of the last one that could.
    """

    uid: str
    resource_version: str
    value: T
    undecodable: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen(Generic[T]):
    """One object as just heard of: `value` is None if it could not be decoded, `why` says why."""

    key: Key
    uid: str
    resource_version: str
    value: T | None
    why: str = ""


class Cache(Generic[T]):
    """Objects by key.

    An object that can't be decoded keeps its last good value; if it never had one (or another uid had the name)
    it is not among the objects, but undecodable() tells of it: absent here need not mean gone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: dict[Key, Cached[T]] = {}
        self._undecodable: dict[Key, str] = {}

    def get(self, key: Key) -> T | None:
        """The object, or None."""
        entry = self.entry(key)
        return None if entry is None else entry.value

    def entry(self, key: Key) -> Cached[T] | None:
        """The object with uid and resourceVersion, or None."""
        with self._lock:
            return self._objects.get(key)

    def items(self) -> tuple[tuple[Key, T], ...]:
        """All objects at this moment, in no particular order."""
        with self._lock:
            return tuple((key, entry.value) for key, entry in self._objects.items())

    def entries(self) -> Mapping[Key, Cached[T]]:
        """A copy of everything at this moment."""
        with self._lock:
            return dict(self._objects)

    def undecodable(self) -> Mapping[Key, str]:
        """Objects whose present state can't be read, and why."""
        with self._lock:
            return dict(self._undecodable)

    def __len__(self) -> int:
        with self._lock:
            return len(self._objects)

    def put(self, seen: Seen[T]) -> bool:
        """Take in a change; True if a reader may see a difference. For the reflector only."""
        with self._lock:
            before = self._objects.get(seen.key), self._undecodable.get(seen.key)
            self._put(seen)
            return before != (self._objects.get(seen.key), self._undecodable.get(seen.key))

    def remove(self, key: Key) -> bool:
        """Forget an object; False if it wasn't there. For the reflector only."""
        with self._lock:
            known = self._undecodable.pop(key, None) is not None
            return self._objects.pop(key, None) is not None or known

    def replace(self, everything: Iterable[Seen[T]]) -> tuple[Key, ...]:
        """Take in a complete list; returns the keys whose objects changed. For the reflector only."""
        with self._lock:
            seen = {each.key: each for each in everything}
            known = self._objects.keys() | self._undecodable.keys()
            changed = [key for key in known if key not in seen]
            for key in changed:
                self._objects.pop(key, None)
                self._undecodable.pop(key, None)
            for key, each in seen.items():
                before = self._objects.get(key), self._undecodable.get(key)
                self._put(each)
                if before != (self._objects.get(key), self._undecodable.get(key)):
                    changed.append(key)
            return tuple(changed)

    def _put(self, seen: Seen[T]) -> None:
        last = self._objects.get(seen.key)
        if seen.value is not None:
            self._undecodable.pop(seen.key, None)
            if last is None or last.undecodable or (last.uid, last.resource_version) != _identity(seen):
                self._objects[seen.key] = Cached(
                    uid=seen.uid, resource_version=seen.resource_version, value=seen.value
                )
            return
        self._undecodable[seen.key] = seen.why
        if last is not None and last.uid == seen.uid:
            self._objects[seen.key] = Cached(
                uid=last.uid, resource_version=last.resource_version, value=last.value, undecodable=seen.why
            )
        elif last is not None:
            del self._objects[seen.key]


def _identity(seen: Seen[T]) -> tuple[str, str]:
    return seen.uid, seen.resource_version
