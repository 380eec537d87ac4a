"""When the scheduler tries a pod again: once something it looked at has changed, but not too soon."""

from collections.abc import Collection
from dataclasses import dataclass, field

from kubesim.actors.timing import Timing


@dataclass(slots=True, kw_only=True)
class _Turn:
    """A pod's last attempt. `due` is None while nothing it depends on has changed."""

    at: float
    attempts: int
    seen: object
    due: float | None = None


@dataclass(slots=True, kw_only=True)
class Turns:
    """Attempts by pod UID. After the nth a pod waits for 2 to the n-1 times the first back-off, and then for the
    queue to be flushed; only news that come later than all that are heeded at once.
    """

    timing: Timing
    _turns: dict[str, _Turn] = field(default_factory=dict)

    def take(self, uid: str, seen: object, now: float) -> bool:
        """Whether to try a pod now; `seen` stands for what it depends on. If so, that counts as an attempt."""
        turn = self._turns.get(uid)
        if turn is not None and not self._is_due(turn, seen, now):
            return False
        attempts = 1 if turn is None else turn.attempts + 1
        self._turns[uid] = _Turn(at=now, attempts=attempts, seen=seen)
        return True

    def _is_due(self, turn: _Turn, seen: object, now: float) -> bool:
        if turn.due is None and turn.seen != seen:
            longer = self.timing.first_attempt_back_off * 2 ** (turn.attempts - 1)
            ready = turn.at + min(longer, self.timing.longest_attempt_back_off)
            turn.due = now if now >= ready else ready + self.timing.attempt_flush
        return turn.due is not None and now >= turn.due

    def keep(self, present: Collection[str]) -> None:
        """Forget pods that no longer wait."""
        self._turns = {uid: turn for uid, turn in self._turns.items() if uid in present}

    def next_due(self) -> float | None:
        """When the next pod is due, of those for which there are news."""
        return min((turn.due for turn in self._turns.values() if turn.due is not None), default=None)
