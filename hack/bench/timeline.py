"""Since when things are so, as seen from outside: through watches of the API server and through files.

Times are those of time.perf_counter at which this process heard of it. What is the case of something is a set of
words; each has the time since when it has been the case without a break.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError, Expired, Unreachable
from reconciler.runtime.kube.transport import Query, Stream

JsonObject = dict[str, Any]
"""An API object as it came."""

Facts = Mapping[str, Iterable[str]]
"""What is the case, by what it is the case of."""

_SILENCE = 3600.0


class Timeline:
    """Facts and their times; any thread may tell, any may ask."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._since: dict[str, dict[str, float]] = {}

    def tell(self, facts: Facts, at: float) -> None:
        """All that is the case of some things, at a time."""
        with self._changed:
            for thing, words in facts.items():
                before = self._since.get(thing, {})
                self._since[thing] = {word: before.get(word, at) for word in words}
            self._changed.notify_all()

    def until(self, facts: Iterable[tuple[str, str]], patience: float) -> list[float]:
        """Wait until all of these (thing, word) are the case; since when. Raises TimeoutError that names some."""
        return self._until(facts, lambda since: since is not None, patience, "never so")

    def until_not(self, facts: Iterable[tuple[str, str]], patience: float) -> None:
        """Wait until none of these is the case. Raises TimeoutError."""
        self._until(facts, lambda since: since is None, patience, "still so")

    def since(self, thing: str, word: str) -> float:
        """Raises KeyError if it isn't the case."""
        with self._changed:
            return self._since[thing][word]

    def word(self, thing: str, start: str) -> str:
        """The word that starts so. Raises KeyError if there is none."""
        with self._changed:
            found = next((word for word in self._since.get(thing, {}) if word.startswith(start)), None)
        if found is None:
            raise KeyError(f"{thing}: {start}")
        return found

    def _until(
        self,
        facts: Iterable[tuple[str, str]],
        holds: Callable[[float | None], bool],
        patience: float,
        complaint: str,
    ) -> list[float]:
        asked = list(facts)
        with self._changed:
            if not self._changed.wait_for(lambda: all(holds(self._look(*fact)) for fact in asked), patience):
                wrong = [" ".join(fact) for fact in asked if not holds(self._look(*fact))]
                raise TimeoutError(f"{complaint} within {patience:.0f} s: {', '.join(wrong[:5])}")
            return [self._look(*fact) or 0.0 for fact in asked]

    def _look(self, thing: str, word: str) -> float | None:
        return self._since.get(thing, {}).get(word)


@contextlib.contextmanager
def followed(
    client: KubeClient,
    path: str,
    timeline: Timeline,
    facts: Callable[[JsonObject, bool], Facts],
    *,
    query: Query = (),
) -> Iterator[None]:
    """Follow a collection while the context lasts; ``facts`` reads an object, and is told whether it is there."""
    watch = _Watch(client, path, query, lambda event, at: timeline.tell(_read(event, facts), at))
    watch.start()
    try:
        yield
    finally:
        watch.stop()


def _read(event: JsonObject, facts: Callable[[JsonObject, bool], Facts]) -> Facts:
    return {} if event["type"] == "BOOKMARK" else facts(event["object"], event["type"] != "DELETED")


class _Watch:
    """A watch in a thread, begun anew when the server ends it."""

    def __init__(
        self, client: KubeClient, path: str, query: Query, hear: Callable[[JsonObject, float], None]
    ) -> None:
        self._client, self._path, self._query, self._hear = client, path, query, hear
        self._stream: Stream | None = None
        self._opened, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch of {path}", daemon=True)

    def start(self) -> None:
        """Returns when it is open: objects that were there are told first."""
        self._thread.start()
        if not self._opened.wait(30):
            raise TimeoutError(f"no watch of {self._path}")

    def stop(self) -> None:
        self._ending.set()
        if self._stream is not None:
            self._stream.close()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._once()
            except (Unreachable, Expired):
                continue
            except ApiError:
                if not self._ending.is_set():
                    raise

    def _once(self) -> None:
        with self._client.watch(self._path, self._query, silence=_SILENCE) as stream:
            self._stream = stream
            self._opened.set()
            for line in stream:
                at = time.perf_counter()
                event = msgspec.json.decode(line, type=JsonObject)
                if event["type"] == "ERROR":
                    return
                self._hear(event, at)
