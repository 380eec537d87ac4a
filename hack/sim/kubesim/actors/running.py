"""Actors at work: one after the other for tests that move time themselves, or in a thread."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

from kubesim import Cluster
from kubesim.actors.api import WATCHED

MOST_ROUNDS = 1000
LONGEST_NAP = 0.5
"""Seconds of real time between looks at a clock that may be a test's own."""


class Actor(Protocol):
    """Something that reacts to what the cluster is like."""

    def step(self) -> float | None:
        """Do what is due; in how many seconds of the cluster's clock to be called again, None: upon a change."""
        ...


class NeverSettled(AssertionError):
    """Actors kept each other busy."""


def settle(cluster: Cluster, *actors: Actor) -> float | None:
    """Let actors act until none changes anything; in how many seconds something is due. Raises NeverSettled."""
    for _ in range(MOST_ROUNDS):
        before = _version(cluster)
        waits = [actor.step() for actor in actors]
        if _version(cluster) == before:
            return min((each for each in waits if each is not None), default=None)
    raise NeverSettled(f"actors were still writing after {MOST_ROUNDS} rounds")


def _version(cluster: Cluster) -> int:
    with cluster.unobserved() as state:
        return state.store.version


@contextlib.contextmanager
def acting(cluster: Cluster, *actors: Actor) -> Iterator[threading.Event]:
    """Actors in a thread of their own while the context lasts. Set the event to make them look at once.

    An actor's exception ends them all, and is raised when the context ends.
    """
    news, crew = threading.Event(), _Crew(cluster, actors)
    with crew.told_of_changes(news):
        thread = threading.Thread(target=crew.run, args=(news,), name="actors", daemon=True)
        thread.start()
        try:
            yield news
        finally:
            crew.stopping = True
            news.set()
            thread.join()
    if crew.failure is not None:
        raise crew.failure


class _Crew:
    def __init__(self, cluster: Cluster, actors: Sequence[Actor]) -> None:
        self.stopping = False
        self.failure: Exception | None = None
        self._cluster = cluster
        self._actors = actors

    @contextlib.contextmanager
    def told_of_changes(self, news: threading.Event) -> Iterator[None]:
        with self._cluster.unobserved() as state:
            ends = [state.store.listen(table, lambda _: news.set()) for table in WATCHED]
        try:
            yield
        finally:
            with self._cluster.unobserved():
                for end in ends:
                    end()

    def run(self, news: threading.Event) -> None:
        try:
            while not self.stopping:
                news.clear()
                waits = [actor.step() for actor in self._actors]
                soonest = min((each for each in waits if each is not None), default=LONGEST_NAP)
                news.wait(min(soonest, LONGEST_NAP))
        except Exception as error:  # noqa: BLE001  handed to whoever started the actors
            self.failure = error
