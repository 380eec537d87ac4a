"""When to try a failing thing again: per key, growing, with jitter, capped. Time and chance are passed in."""

import random
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tenacity import RetryCallState, Retrying, wait_exponential

Key = TypeVar("Key", bound=Hashable)


class _Jittered(wait_exponential):
    """tenacity's exponential wait, shortened by chance: keys failing together don't come back together."""

    def __init__(self, base: float, cap: float, jitter: float, rng: random.Random) -> None:
        super().__init__(multiplier=base, max=cap)
        self._jitter = jitter
        self._rng = rng

    def __call__(self, retry_state: RetryCallState) -> float:
        return super().__call__(retry_state) * (1 - self._jitter * self._rng.random())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failing:
    attempts: int
    due: float


class Backoff(Generic[Key]):
    """Waits per key: `base` seconds after the first failure, doubling up to `cap`, each shortened by up to
    `jitter`.

    `now` is any clock that does not go back, in seconds. Not for several threads at once: the loop owns it.
    """

    def __init__(self, base: float, cap: float, rng: random.Random, *, jitter: float = 0.5) -> None:
        if not (0 < base <= cap and 0 <= jitter < 1):
            raise ValueError(f"need 0 < base <= cap and 0 <= jitter < 1, not {base}, {cap}, {jitter}")
        self._wait = _Jittered(base, cap, jitter, rng)
        self._state = RetryCallState(Retrying(wait=self._wait), fn=None, args=(), kwargs={})
        self._failing: dict[Key, _Failing] = {}

    def failed(self, key: Key, now: float) -> float:
        """Note a failure; returns the seconds until the key is ready again."""
        attempts = self.attempts(key) + 1
        self._state.attempt_number = attempts
        wait = self._wait(self._state)
        self._failing[key] = _Failing(attempts=attempts, due=now + wait)
        return wait

    def succeeded(self, key: Key) -> None:
        """Forget the failures of a key."""
        self._failing.pop(key, None)

    def ready(self, key: Key, now: float) -> bool:
        """The key may be tried at `now`."""
        failing = self._failing.get(key)
        return failing is None or failing.due <= now

    def attempts(self, key: Key) -> int:
        """Failures in a row."""
        failing = self._failing.get(key)
        return failing.attempts if failing else 0

    def next_due(self, now: float) -> float | None:
        """Seconds until the first key still waiting is ready; None if none waits (those already ready don't
        count).
        """
        return min((failing.due - now for failing in self._failing.values() if failing.due > now), default=None)
