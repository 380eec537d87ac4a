"""What everybody at the negotiation has at hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from reconciler.controller.classic.asking import Asking
from reconciler.controller.classic.claim_writes import ClaimWrites
from reconciler.controller.classic.known_claims import KnownClaims
from reconciler.controller.classic.ledger import Ledger
from reconciler.controller.classic.pods import Pods
from reconciler.controller.classic.wants import Wants
from reconciler.controller.knowledge import Knowledge
from reconciler.controller.standby import Patience
from reconciler.runtime.kube.cache import Cache, Key
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.events import EventRecorder
from state.classic.claims import ClassicClaim
from state.classic.classes import ResourceClass, for_claim
from state.classic.scheduling import PodScheduling

SOON: Final = 0.25
"""Seconds after which to look again at what a watch should have told by then."""


class Turn:
    """Whether it is for this replica to act: one that does not lead gives the others some time first."""

    def __init__(self, leading: Callable[[], bool], clock: Callable[[], float]) -> None:
        self._leading = leading
        self._clock = clock
        self._lock = threading.Lock()
        self._patience = Patience()

    def remaining(self, what: str, version: str) -> float:
        """Seconds that others still have to do ``what``, for an object of this version; 0: it is to be done."""
        if self._leading():
            return 0.0
        with self._lock:
            return self._patience.remaining(what, (version,), self._clock())

    def over(self, what: str) -> None:
        """Nothing is to be done about it."""
        with self._lock:
            self._patience.forget(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Caches, and those who read and write. ``source`` is the API version, as entries name it."""

    client: KubeClient
    source: str
    claims: KnownClaims
    classes: Cache[ResourceClass]
    schedulings: Cache[PodScheduling]
    knowledge: Knowledge
    ledger: Ledger
    asking: Asking
    pods: Pods
    wants: Wants
    writes: ClaimWrites
    events: EventRecorder
    turn: Turn

    def class_of(self, claim: ClassicClaim) -> ResourceClass | None:
        """The claim's class, with the driver that allocates the claim; None if there is no such class."""
        found = self.classes.get(Key("", claim.class_name))
        return None if found is None else for_claim(found, claim)
