"""A reflector on some transport, and how a test waits for what it does."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from reconciler.runtime.kube.cache import Key
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.reflector import Reflector, Timing
from reconciler.runtime.kube.transport import Transport

SWIFT = Timing(first_wait=0.001, longest_wait=0.01, good_after=0.05)


class Thing(msgspec.Struct):
    """What the tests' objects hold."""

    data: str


@dataclass
class Following:
    """What a reflector told, and a way to wait until something is so."""

    reflector: Reflector[Thing] = field(init=False)
    changed: list[Key] = field(default_factory=list)
    unreadable: list[tuple[Key, str]] = field(default_factory=list)
    crashes: list[BaseException] = field(default_factory=list)
    _told: threading.Condition = field(default_factory=threading.Condition)

    def on_change(self, key: Key) -> None:
        with self._told:
            self.changed.append(key)
            self._told.notify_all()

    def on_undecodable(self, key: Key, why: str) -> None:
        self.unreadable.append((key, why))

    def until(self, so: Callable[[], object]) -> None:
        """Wait until something is so, at most ten seconds."""
        with self._told:
            for _ in range(1000):
                if so():
                    return
                self._told.wait(0.01)
        raise AssertionError(f"not so within ten seconds; the reflector says: {self.reflector.trouble}")

    def data(self) -> dict[Key, str]:
        return {key: thing.data for key, thing in self.reflector.cache.items()}


@contextmanager
def following(transport: Transport, *, timing: Timing = SWIFT, page: int = 500) -> Iterator[Following]:
    """A started reflector; at the end it must stop and not have crashed."""
    told = Following()
    told.reflector = Reflector(
        KubeClient(transport, retries=NO_RETRIES),
        "/api/v1/things",
        msgspec.json.Decoder(Thing).decode,
        told.on_change,
        on_undecodable=told.on_undecodable,
        on_crash=told.crashes.append,
        timing=timing,
        page=page,
        rng=random.Random(1),
    )
    told.reflector.start()
    try:
        yield told
    finally:
        told.reflector.stop(10)
    assert told.crashes == []
