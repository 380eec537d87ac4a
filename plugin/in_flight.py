"""Calls under way: at most one for each claim."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from plugin.claims import Answer, NotPrepared, Prepared


class Call:
    """One call of the kubelet, while it has the turn for its claims.

    Only InFlight changes it, under its lock. ``stirred`` is set when the caller has something to look at: all
    answers are there, or a claim was cancelled.
    """

    def __init__(self, uids: tuple[str, ...]) -> None:
        self.uids = uids
        self.nonces: dict[str, str] = {}
        self.prepared: dict[str, Prepared] = {}
        self.cancelled: set[str] = set()
        self.stirred = threading.Event()

    @property
    def settled(self) -> bool:
        """There is nothing more to wait for."""
        return all(uid in self.prepared or uid in self.cancelled for uid in self.nonces)


class InFlight:
    """Gives turns, and tells calls what they wait for. Methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._calls: dict[str, Call] = {}

    def begin(self, uids: Iterable[str], deadline: float) -> Call | None:
        """The turn for all these claims at once, None if the deadline passes first. To be ended by end().

        Nobody ever has some of his claims while he waits for others, so no two calls can wait for each other.
        """
        call = Call(tuple(uids))
        with self._changed:
            free = self._changed.wait_for(
                lambda: self._calls.keys().isdisjoint(call.uids), max(0.0, deadline - self._clock())
            )
            if not free:
                return None
            self._calls.update(dict.fromkeys(call.uids, call))
            return call

    def end(self, call: Call) -> None:
        """Give back the turn for all claims of a call that it still has."""
        self._give_back(call, call.uids)

    def cancel(self, uid: str) -> None:
        """Have whoever prepares this claim give up on it, soon."""
        with self._changed:
            call = self._calls.get(uid)
            if call is not None:
                call.cancelled.add(uid)
                call.stirred.set()

    def wait(
        self, call: Call, nonces: dict[str, str], judge: Callable[[str, str], Answer], deadline: float
    ) -> None:
        """Wait until the call is settled or the deadline has come. Turns of cancelled claims go back at once."""
        with self._changed:
            call.nonces = nonces
            self._judge(call, judge)
        while not call.settled and (left := deadline - self._clock()) > 0:
            call.stirred.wait(left)
            call.stirred.clear()
            self._give_back(call, call.cancelled)

    def look_again(self, judge: Callable[[str, str], Answer]) -> None:
        """There is a new status: judge all that is being waited for by UID and nonce."""
        with self._changed:
            for call in self._waiting():
                self._judge(call, judge)

    def _waiting(self) -> Iterator[Call]:
        yield from {id(call): call for call in self._calls.values() if not call.settled}.values()

    def _judge(self, call: Call, judge: Callable[[str, str], Answer]) -> None:
        for uid, nonce in call.nonces.items():
            if uid not in call.prepared:
                match judge(uid, nonce):
                    case Prepared() as prepared:
                        call.prepared[uid] = prepared
                    case NotPrepared():
                        pass
        if call.settled:
            call.stirred.set()

    def _give_back(self, call: Call, uids: Iterable[str]) -> None:
        with self._changed:
            for uid in tuple(uids):
                if self._calls.get(uid) is call:
                    del self._calls[uid]
            self._changed.notify_all()
