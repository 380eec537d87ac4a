"""The publisher: keeps the status of the node's GpuNodeState as the machine is."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.cache import Cached
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError, NotFound
from state.mirroring import OwnObject, decode_own
from state.publishing import MOST_OFTEN, as_json, is_urgent, status_for
from state.status import NodeStatus

_WRITE = "write"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    status: NodeStatus
    seen_uid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A write of ours: over which state of the object, what we sent, and what the server made of it."""

    uid: str
    over: str
    sent: dict[str, object]
    kept: dict[str, object] | None


class Publisher:
    """Writes the newest status that was offered whenever the object ``live`` has another one.

    ``offer`` may be called from any thread; ``step`` belongs to one.
    """

    def __init__(
        self,
        client: KubeClient,
        path: str,
        live: Callable[[], Cached[OwnObject] | None],
        *,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._client = client
        self._path = f"{path}/status"
        self._live = live
        self._clock = clock
        self._backoff: Backoff[str] = Backoff(0.2, 30.0, rng)
        self._lock = threading.Lock()
        self._offer: _Offer | None = None
        self._published: NodeStatus | None = None
        self._written: _Written | None = None
        self._written_at = float("-inf")
        self._not_before = float("-inf")
        self._warned = False

    def offer(self, status: NodeStatus, seen_uid: str | None) -> None:
        """This is how the machine is; ``seen_uid`` is the object whose manifest it follows."""
        with self._lock:
            self._offer = _Offer(status=status, seen_uid=seen_uid)

    def step(self) -> float | None:
        """Write if that is due. Returns in how many seconds to call again, None for when something changes."""
        with self._lock:
            offer = self._offer
        live = self._live()
        if offer is None or live is None:
            return None
        status = status_for(offer.status, offer.seen_uid, live.uid)
        body = as_json(status)
        if self._stands(live, body):
            self._published = status
            return None
        wait = self._wait(status)
        if wait > 0:
            return wait
        return self._write(live, status, body)

    def _stands(self, live: Cached[OwnObject], body: dict[str, object]) -> bool:
        if live.value.status == body:
            return True
        last = self._written
        if last is None or last.uid != live.uid or last.sent != body:
            return False
        # What we wrote hasn't come back yet, or it has, without what this server doesn't know.
        return live.resource_version == last.over or live.value.status == last.kept

    def _wait(self, status: NodeStatus) -> float:
        due = self._not_before
        if not is_urgent(self._published, status):
            due = max(due, self._written_at + MOST_OFTEN.total_seconds())
        return due - self._clock()

    def _write(self, live: Cached[OwnObject], status: NodeStatus, body: dict[str, object]) -> float | None:
        # The whole status at once: fields we no longer have must go. Not on an object that only has the name.
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": live.uid},
            {"op": "add", "path": "/status", "value": body},
        ]
        try:
            answer = self._client.json_patch(self._path, msgspec.json.encode(patch))
        except ApiError as error:
            return self._failed(error)
        self._backoff.succeeded(_WRITE)
        self._written_at = self._clock()
        self._published = status
        kept = decode_own(answer).status
        self._written = _Written(uid=live.uid, over=live.resource_version, sent=body, kept=kept)
        if kept != body and not self._warned:
            self._warned = True
            _log.warning("the server dropped fields of the status: its CRD is older than this agent")
        return None

    def _failed(self, error: ApiError) -> float:
        """What was refused is looked at anew after a while: the object may be another by then."""
        if self._backoff.attempts(_WRITE) == 0:
            level = logging.DEBUG if isinstance(error, NotFound) else logging.WARNING
            _log.log(level, "can't publish the status yet: %s", error)
        wait = max(self._backoff.failed(_WRITE, self._clock()), error.retry_after or 0.0)
        self._not_before = self._clock() + wait
        return wait
