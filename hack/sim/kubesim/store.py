"""All objects, one counter of versions, and what happened to them: what etcd is to a real server."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from kubesim.values import Object

TableKey: TypeAlias = tuple[str, str]
"""Group and plural."""
ObjectKey: TypeAlias = tuple[str, str]
"""Namespace ("" if there is none) and name."""


class Step(Enum):
    """What a change did."""

    ADDED = auto()
    MODIFIED = auto()
    DELETED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One write. `current` of a deletion is the last state with the version of the deletion.

    `lines` keeps the event's encodings, so that many watchers of a form share one.
    """

    version: int
    step: Step
    key: ObjectKey
    current: Object
    previous: Object | None
    lines: dict[tuple[str, str, str], bytes] = field(default_factory=dict)


Listener: TypeAlias = Callable[[Change], None]


class Store:
    """Objects by table and key. The caller holds the lock; stored objects are never changed in place."""

    def __init__(self, history: int) -> None:
        self.version = 1
        self.settled = 1
        """The version up to which every listener has been told."""
        self._history = history
        self._tables: dict[TableKey, dict[ObjectKey, Object]] = defaultdict(dict)
        self._log: dict[TableKey, deque[Change]] = defaultdict(deque)
        self._forgotten: dict[TableKey, int] = defaultdict(int)
        self._compacted = 0
        self._owned: dict[str, set[tuple[TableKey, ObjectKey]]] = defaultdict(set)
        self._places: dict[str, tuple[TableKey, ObjectKey]] = {}
        self._listeners: dict[tuple[TableKey, str], list[Listener]] = defaultdict(list)

    def get(self, table: TableKey, key: ObjectKey) -> Object | None:
        return self._tables[table].get(key)

    def all(self, table: TableKey) -> list[tuple[ObjectKey, Object]]:
        """Sorted as etcd sorts: by namespace, then name."""
        return sorted(self._tables[table].items(), key=lambda item: item[0])

    def tables(self) -> Iterator[tuple[TableKey, dict[ObjectKey, Object]]]:
        yield from list(self._tables.items())

    def put(self, table: TableKey, key: ObjectKey, changed: Object) -> Object:
        """Store an object under the next version, which is written into it."""
        previous = self._tables[table].get(key)
        stored = self._versioned(changed)
        self._tables[table][key] = stored
        self._places[stored["metadata"]["uid"]] = (table, key)
        if previous is not None:
            self._forget_owners(table, key, previous)
        for owner in owner_uids(stored):
            self._owned[owner].add((table, key))
        step = Step.ADDED if previous is None else Step.MODIFIED
        self._tell(table, Change(version=self.version, step=step, key=key, current=stored, previous=previous))
        return stored

    def remove(self, table: TableKey, key: ObjectKey, last: Object | None = None) -> Object:
        """Remove an object; the answer, its `last` state, carries the version of the deletion."""
        previous = self._tables[table].pop(key)
        self._places.pop(previous["metadata"]["uid"], None)
        self._forget_owners(table, key, previous)
        last = self._versioned(last or previous)
        change = Change(version=self.version, step=Step.DELETED, key=key, current=last, previous=previous)
        self._tell(table, change)
        return last

    def drop_table(self, table: TableKey) -> None:
        """Forget a table that is gone, its history too."""
        self._tables.pop(table, None)
        self._log.pop(table, None)
        self._forgotten.pop(table, None)

    def place_of(self, uid: str) -> tuple[TableKey, ObjectKey] | None:
        """Where the object of this uid is."""
        return self._places.get(uid)

    def owned_by(self, uid: str) -> tuple[tuple[TableKey, ObjectKey], ...]:
        """Objects with an owner reference to this uid, sorted."""
        return tuple(sorted(self._owned.get(uid, ())))

    def changes_after(self, table: TableKey, version: int) -> list[Change]:
        """The changes of a table after a version that is not compacted."""
        return [change for change in self._log[table] if change.version > version]

    def as_of(self, table: TableKey, version: int) -> list[tuple[ObjectKey, Object]]:
        """What `all` said when the cluster was at this version."""
        objects = dict(self._tables[table])
        for change in reversed(self._log[table]):
            if change.version <= version:
                break
            if change.previous is None:
                del objects[change.key]
            else:
                objects[change.key] = change.previous
        return sorted(objects.items(), key=lambda item: item[0])

    def oldest(self, table: TableKey) -> int:
        """The oldest version from which this table's history is complete."""
        return max(self._compacted, self._forgotten[table])

    def compact(self) -> None:
        """Forget all history, as etcd does every five minutes."""
        self._compacted = self.version
        for log in self._log.values():
            log.clear()

    def listen(self, table: TableKey, listener: Listener, name: str = "") -> Callable[[], None]:
        """Be told of every change of a table, or of objects of one name; call the answer to end that."""
        known = self._listeners[table, name]
        known.append(listener)

        def stop() -> None:
            if listener in known:
                known.remove(listener)
            if not known and self._listeners.get((table, name)) is known:
                del self._listeners[table, name]

        return stop

    def _versioned(self, changed: Object) -> Object:
        self.version += 1
        return {**changed, "metadata": {**changed["metadata"], "resourceVersion": str(self.version)}}

    def _forget_owners(self, table: TableKey, key: ObjectKey, gone: Object) -> None:
        for owner in owner_uids(gone):
            self._owned[owner].discard((table, key))
            if not self._owned[owner]:
                del self._owned[owner]

    def _tell(self, table: TableKey, change: Change) -> None:
        log = self._log[table]
        log.append(change)
        if len(log) > self._history:
            self._forgotten[table] = log.popleft().version
        for name in ("", change.key[1]):
            for listener in list(self._listeners.get((table, name), ())):
                listener(change)
        self.settled = change.version


def owner_uids(owned: Object) -> Iterator[str]:
    """The uids of an object's owner references."""
    for reference in owned["metadata"].get("ownerReferences") or ():
        yield reference["uid"]
