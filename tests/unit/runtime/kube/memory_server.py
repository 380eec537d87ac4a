"""One collection on a server in memory: lists in pages, watches with history, compaction, faults on request."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.transport import Request, Response, Stream
from tests.unit.runtime.kube.replies import Answer, Lines

UNREADABLE = "unreadable"
"""Data that are sent as a number, where readers expect a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    uid: str
    version: int
    data: str

    def as_json(self, key: Key) -> dict[str, object]:
        metadata = {"name": key.name, "uid": self.uid, "resourceVersion": str(self.version)}
        if key.namespace:
            metadata["namespace"] = key.namespace
        return {"metadata": metadata, "data": 7 if self.data == UNREADABLE else self.data}


def status(code: int, reason: str) -> Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": f"made up {code}"}
    return Response(status=code, headers={"content-type": "application/json"}, body=json.dumps(body).encode())


class MemoryServer:
    """`before_list` and `before_watch` may answer in the server's place, once for each fault put in."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[Key, Stored] = {}
        self.version = 10
        self.history: list[tuple[int, bytes]] = []
        self.oldest = 10  # positions before it are forgotten
        self.open: list[Lines] = []
        self.list_faults: list[Answer] = []
        self.watch_faults: list[Lines | Unreachable] = []
        self.lists = 0
        self.watches = 0
        self.asked: list[Request] = []
        self.on_page: Callable[[], None] = lambda: None

    def put(self, key: Key, data: str, *, anew: bool = False) -> None:
        """Create or change an object; `anew`: delete it first, so that it gets another uid."""
        with self.lock:
            if anew and key in self.objects:
                self.delete(key)
            self.version += 1
            known = self.objects.get(key)
            uid = known.uid if known else f"uid-{self.version}"
            self.objects[key] = Stored(uid=uid, version=self.version, data=data)
            self._tell("MODIFIED" if known else "ADDED", self.objects[key].as_json(key))

    def delete(self, key: Key) -> None:
        with self.lock:
            gone = self.objects.pop(key)
            self.version += 1
            self._tell("DELETED", Stored(uid=gone.uid, version=self.version, data=gone.data).as_json(key))

    def bookmark(self) -> None:
        with self.lock:
            self._send(_line("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}))

    def compact(self) -> None:
        """Forget the past: watches and lists that began earlier are told 410."""
        with self.lock:
            self.history.clear()
            self.oldest = self.version

    def drop(self, how: Exception | None) -> None:
        """End all watches: properly (None), or by an error."""
        with self.lock:
            for lines in self.open:
                lines.feed(how)
            self.open.clear()

    def close(self) -> None:
        pass

    def send(self, request: Request) -> Response:
        with self.lock:
            self.asked.append(request)
            if self.list_faults:
                fault = self.list_faults.pop(0)
                if isinstance(fault, Unreachable):
                    raise fault
                return fault
            answer = self._page(dict(request.query))
        self.on_page()
        return answer

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        with self.lock:
            self.asked.append(request)
            lines = self.watch_faults.pop(0) if self.watch_faults else self._watch(dict(request.query))
            if isinstance(lines, Unreachable):
                raise lines
            self.watches += 1
        try:
            yield lines
        finally:
            lines.close()
            with self.lock:
                if lines in self.open:
                    self.open.remove(lines)

    def _page(self, query: dict[str, str]) -> Response:
        """The continue token holds the version of the first page; changes since then make a later page expire only
        after compaction, and otherwise don't show, as on a real server.
        """
        if "continue" not in query:
            self.lists += 1
            snapshot, version = dict(self.objects), self.version
            self._snapshots: dict[int, dict[Key, Stored]] = {version: snapshot}
            start = 0
        else:
            version, start = map(int, query["continue"].split(":"))
            if version < self.oldest:
                return status(410, "Expired")
            snapshot = self._snapshots[version]
        limit = int(query["limit"]) if "limit" in query else len(snapshot) + 1
        keys = sorted(snapshot)
        metadata = {"resourceVersion": str(version)}
        if start + limit < len(keys):
            metadata["continue"] = f"{version}:{start + limit}"
        items = [snapshot[key].as_json(key) for key in keys[start : start + limit]]
        return Response(status=200, body=json.dumps({"metadata": metadata, "items": items}).encode())

    def _watch(self, query: dict[str, str]) -> Lines:
        lines = Lines()
        position = int(query["resourceVersion"])
        if position < self.oldest:
            expired = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            return lines.feed(_line("ERROR", expired), None)
        for version, line in self.history:
            if version > position:
                lines.feed(line)
        self.open.append(lines)
        return lines

    def _tell(self, type: str, body: dict[str, object]) -> None:
        line = _line(type, body)
        self.history.append((self.version, line))
        self._send(line)

    def _send(self, line: bytes) -> None:
        for lines in self.open:
            lines.feed(line)


def _line(type: str, body: dict[str, object]) -> bytes:
    return json.dumps({"type": type, "object": body}).encode()
