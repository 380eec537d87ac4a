"""Tells claims how their devices on this node stand."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from reconciler.node.slice_server import GROUP
from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from state.slices.claim_status import ClaimStatus

FIELD_MANAGER: Final = "gpu.intel.com-node"

MOST_OFTEN = 1.0
"""Seconds between two writes to one claim, unless its devices have become ready or failed meanwhile."""
LACKING_RIGHT = 300.0
"""Seconds after which a refused write is tried again: rights come by people's hands."""
AT_ONCE = 16
"""Writes in one step: others share the thread."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    status: ClaimStatus
    at: float


class ClaimStatusWriter:
    """Writes what was offered last wherever it differs from what was written. All in one thread.

    Claims are never read: the node may not list them, and its part of their status is nobody else's.
    """

    def __init__(self, client: KubeClient, *, clock: Callable[[], float], rng: random.Random) -> None:
        self._client, self._clock = client, clock
        self._backoff: Backoff[str] = Backoff(0.5, 60.0, rng)
        self._wanted: Mapping[str, ClaimStatus] = {}
        self._written: dict[str, _Written] = {}
        self._refused_until: dict[str, float] = {}
        self._warned = False

    def offer(self, wanted: Mapping[str, ClaimStatus]) -> None:
        """What is to be said, by claim UID; of claims that are not among these nothing more is said."""
        self._wanted = wanted
        for uid in self._written.keys() - wanted.keys():
            del self._written[uid]
        for uid in self._refused_until.keys() - wanted.keys():
            del self._refused_until[uid]

    def step(self) -> float | None:
        """Write what is due. Returns in how many seconds to call again, None for when something changes."""
        due: list[float] = []
        wrote = 0
        for uid, status in self._wanted.items():
            wait = self._wait(uid, status)
            if wait is not None and wait <= 0:
                if wrote == AT_ONCE:
                    return 0.0
                wrote += 1
                wait = self._write(uid, status)
            if wait is not None:
                due.append(wait)
        return min(due, default=None)

    def _wait(self, uid: str, status: ClaimStatus) -> float | None:
        """Seconds until this is to be written; None if it has been."""
        now, last = self._clock(), self._written.get(uid)
        if last is not None and last.status == status:
            return None
        due = self._refused_until.get(uid, now)
        if last is not None and last.status.summary == status.summary:
            due = max(due, last.at + MOST_OFTEN)
        if not self._backoff.ready(uid, now):
            due = max(due, now + (self._backoff.next_due(now) or 0.0))
        return due - now

    def _write(self, uid: str, status: ClaimStatus) -> float | None:
        namespace, name = quote(status.namespace, safe=""), quote(status.name, safe="")
        row = str(status.body["apiVersion"]).rpartition("/")[2]
        path = f"{GROUP}/{row}/namespaces/{namespace}/resourceclaims/{name}/status"
        try:
            self._client.apply(path, msgspec.json.encode(status.body), field_manager=FIELD_MANAGER, force=True)
        except (NotFound, Conflict) as error:
            _log.debug("the claim is gone: %s", error)  # the controller removes its entry
        except (Invalid, Forbidden) as error:
            return self._refused(uid, error)
        except ApiError as error:
            if self._backoff.attempts(uid) == 0:
                _log.warning("can't tell a claim about its devices yet: %s", error)
            return max(self._backoff.failed(uid, self._clock()), error.retry_after or 0.0)
        self._backoff.succeeded(uid)
        self._refused_until.pop(uid, None)
        self._written[uid] = _Written(status=status, at=self._clock())
        return None

    def _refused(self, uid: str, error: ApiError) -> float:
        """Either the claim has been given something else by now, or we lack a right: that is a 422, too."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "can't tell a claim about its devices (is the verb associated-node:patch on resourceclaims/driver "
                "granted?): %s",
                error,
            )
        self._refused_until[uid] = self._clock() + LACKING_RIGHT
        return LACKING_RIGHT
