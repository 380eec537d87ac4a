"""Faults: what goes wrong between a client and its server, by rule and by chance, repeatable by seed."""

import re
from dataclasses import dataclass
from enum import Enum
from random import Random

from kubesim.messages import Request


class Fault(Enum):
    """What a rule does to the requests that it matches."""

    REFUSED = "the connection is refused"
    DROPPED = "the connection breaks before an answer; a write has been done all the same"
    LOST = "the connection breaks before the request arrives"
    CONFLICT = "409 on a write"
    EXPIRED = "410: on a list at once, on a watch as its first event"
    THROTTLED = "429 with Retry-After, in plain text"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    SLOW = "the answer comes late, by `seconds`"
    STALE = "a list of the state `behind` changes ago, as a lagging replica gives it"
    HALF_OPEN = "a watch stays open and says nothing any more"
    WATCH_DROPPED = "a watch breaks after `events` events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`method` "WATCH" means watches only, "" means any; `path` is a regular expression to be found in the URL.

    `count` limits how often it strikes (None: always), `probability` how likely each time.
    """

    fault: Fault
    method: str = ""
    path: str = ""
    probability: float = 1.0
    count: int | None = None
    seconds: float = 1.0
    events: int = 0
    behind: int = 1

    def matches(self, request: Request) -> bool:
        method = "WATCH" if request.watches else request.method
        return self.method in ("", method) and re.search(self.path, request.url) is not None


class Faults:
    """The rules in force. The caller holds the cluster's lock."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._left: list[tuple[Rule, int | None]] = []

    def add(self, rule: Rule) -> None:
        self._left.append((rule, rule.count))

    def clear(self) -> None:
        self._left.clear()

    def strike(self, request: Request) -> Rule | None:
        """The first rule that strikes, which uses it up by one."""
        for index, (rule, left) in enumerate(self._left):
            if left == 0 or not rule.matches(request):
                continue
            if rule.probability < 1.0 and self._rng.random() >= rule.probability:
                continue
            if left is not None:
                self._left[index] = (rule, left - 1)
            return rule
        return None
