"""What failed, how often, and when to try again: one back-off for each unit of work."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime, timedelta

from reconciler.runtime.backoff import Backoff
from state.gpu_planning import Failure
from state.ids import DeviceName


class Failures:
    """Failures by unit (a GPU's layout, a function's driver, a CDI file). Forgotten at a restart."""

    def __init__(self, *, base: float, cap: float, rng: random.Random) -> None:
        self._backoff: Backoff[str] = Backoff(base, cap, rng)
        self._failures: dict[str, Failure] = {}

    def now(self) -> Mapping[str, Failure]:
        """All failures that are remembered."""
        return dict(self._failures)

    def failed(self, unit: str, message: str, now: datetime) -> None:
        """An action of the unit failed. One that fails while another backs off was the undoing of that one."""
        before = self._failures.get(unit)
        undoing = before is not None and now < before.retry_at
        wait = self._backoff.failed(unit, now.timestamp())
        self._failures[unit] = Failure(
            attempts=self._backoff.attempts(unit),
            message=f"{before.message}; undoing it failed too: {message}" if before and undoing else message,
            retry_at=now + timedelta(seconds=wait),
            undo_failed=undoing,
        )

    def backs_off(self, unit: str, now: datetime) -> bool:
        """Whether the unit is to be left alone for now."""
        failure = self._failures.get(unit)
        return failure is not None and now < failure.retry_at

    def settle(self, pending: frozenset[str], changing: frozenset[DeviceName], now: datetime) -> None:
        """Forget units whose time to retry has come and for which nothing is left to be done.

        What is to be done at a GPU that is ``changing`` shows only when that is over.
        """
        for unit in [unit for unit, failure in self._failures.items() if failure.retry_at <= now]:
            if unit not in pending and unit.partition("/")[0] not in changing:
                del self._failures[unit]
                self._backoff.succeeded(unit)
