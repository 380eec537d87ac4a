"""The loop: one pass whenever something was heard of, and in any case every so often. Never two at once."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.runtime.wakeups import WakeSet

RESYNC = "resync"
"""Topic of a pass that should look everywhere: the first one, and one each resync interval."""
DUE = "due"
"""Topic of a pass that runs because an earlier one asked for it."""

OnePass = Callable[[frozenset[str]], float | None]
"""Takes the topics heard of; returns in how many seconds it wants to run again, None: only when woken."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRun:
    """How one pass went: for metrics."""

    topics: frozenset[str]
    seconds: float
    crashed: bool


class Loop:
    """Runs `one_pass` in the thread that calls run(), until stop().

    A pass asked for again in n seconds comes then or earlier; each pass answers anew. Passes keep a distance of
    `settle` seconds, in which bursts gather, unless one asked for the next sooner. An exception out of a pass is a
    bug: it is logged and ends run(), and with it the process, since starting over from what is seen mends more
    than going on with what is believed.
    """

    def __init__(
        self,
        one_pass: OnePass,
        wakes: WakeSet,
        *,
        resync: float,
        settle: float = 0.002,
        clock: Callable[[], float] = time.monotonic,
        on_run: Callable[[PassRun], None] | None = None,
    ) -> None:
        if resync <= 0 or settle < 0:
            raise ValueError(f"need resync > 0 and settle >= 0 seconds, not {resync}, {settle}")
        self._one_pass = one_pass
        self._wakes = wakes
        self._resync = resync
        self._settle = settle
        self._clock = clock
        self._on_run = on_run

    def run(self) -> None:
        """Run passes until stop(); returns after the pass under way."""
        resync_at = self._clock()
        due_at: float | None = None
        while not self._wakes.closed:
            next_at = resync_at if due_at is None else min(resync_at, due_at)
            # Whoever wakes a loop at rest is served at once: a pod may be waiting.
            self._wakes.pause(max(0.0, min(self._settle, next_at - self._clock())))
            topics = self._wakes.wait(max(0.0, next_at - self._clock()))
            now = self._clock()
            if now >= resync_at:
                topics |= {RESYNC}
                resync_at = now + self._resync
            if due_at is not None and now >= due_at:
                topics |= {DUE}
            if topics and not self._wakes.closed:
                again = self._run_pass(topics)
                due_at = None if again is None else self._clock() + max(0.0, again)

    def stop(self) -> None:
        """Start no further pass. From any thread; does not wait for the pass under way."""
        self._wakes.close()

    def _run_pass(self, topics: frozenset[str]) -> float | None:
        started = self._clock()
        crashed = True
        try:
            again = self._one_pass(topics)
            crashed = False
            return again
        except Exception:
            _log.exception("a pass crashed", extra={"topics": ",".join(sorted(topics))})
            raise
        finally:
            if self._on_run is not None:
                self._on_run(PassRun(topics=topics, seconds=self._clock() - started, crashed=crashed))
