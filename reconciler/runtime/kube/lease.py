"""One of several replicas leads: a Lease (coordination.k8s.io/v1) held by renewing it.

Leading only saves double work. Whoever's writes would clash without it must not rely on it: a process may be
paused between looking at `leading` and its write.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import AlreadyExists, ApiError, Conflict, Garbled, NotFound
from reconciler.runtime.kube.threads import OnCrash, start_thread

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """In seconds. Others wait `lease` without a sign of life before they take over; a holder who could not renew
    for `renew_deadline` stops leading, so that one has stopped before the next begins. Tries come every `retry`,
    each request is given `request`.
    """

    lease: int = 15
    renew_deadline: float = 10.0
    retry: float = 2.0
    request: float = 3.0

    def __post_init__(self) -> None:
        if not (0 < self.retry < self.renew_deadline < self.lease and self.request > 0):
            raise ValueError(f"need 0 < retry < renew_deadline < lease and 0 < request, not {self}")


DEFAULT_TIMES = LeaseTimes()


class _Metadata(msgspec.Struct):
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class _Spec(msgspec.Struct):
    holder: str | None = msgspec.field(default=None, name="holderIdentity")
    transitions: int | None = msgspec.field(default=None, name="leaseTransitions")
    renewed: str | None = msgspec.field(default=None, name="renewTime")
    seconds: int | None = msgspec.field(default=None, name="leaseDurationSeconds")


class _Lease(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)


class Elector:
    """Competes for a Lease in a thread of its own.

    `on_change` is told True when leading begins and False when it ends, in that thread; `leading` is exact at
    any moment, also while a request hangs. Others' clocks are never compared with ours: a foreign lease has run
    out when it didn't change for its duration by our own clock.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        on_change: Callable[[bool], None],
        times: LeaseTimes = DEFAULT_TIMES,
        on_crash: OnCrash | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        rng: random.Random | None = None,
    ) -> None:
        self._client = client.patience(retries=NO_RETRIES, timeout=times.request)
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._on_change = on_change
        self._times = times
        self._on_crash = on_crash
        self._clock = clock
        self._now = now
        self._rng = rng or random.Random()
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._held_until = float("-inf")
        self._told = False
        self._trouble = ""
        self._seen_version = ""
        self._seen_at = 0.0

    @property
    def leading(self) -> bool:
        """The lease is held and was renewed in time."""
        return self._clock() < self._held_until

    def start(self) -> None:
        """Begin to compete. Once only."""
        if self._thread is not None:
            raise ValueError("this elector has been started before")
        self._thread = start_thread(f"lease {self._name}", self._run, self._on_crash)

    def stop(self, wait: float = 5.0) -> None:
        """Stop competing and give the lease back, so that another one leads at once."""
        self._halt.set()
        if self._thread is not None:
            self._thread.join(wait)

    def _run(self) -> None:
        while not self._halt.is_set():
            self.attempt()
            self._halt.wait(self._pause())
        led, self._held_until = self.leading, float("-inf")
        self._tell()  # before another one may begin
        if led:
            self._give_back()

    def _pause(self) -> float:
        # Chance only shortens, so that a renewal never comes late; and a lost lease is told as soon as it is lost.
        pause = self._times.retry * (0.8 + 0.2 * self._rng.random())
        return min(pause, max(0.0, self._held_until - self._clock())) if self._told else pause

    def _tell(self) -> None:
        leading = self.leading
        if leading != self._told:
            self._told = leading
            _log.info("leading" if leading else "not leading any more", extra={"lease": self._name})
            self._on_change(leading)

    def attempt(self) -> None:
        """Try once to take or renew the lease: what the thread does all the time."""
        asked_at = self._clock()
        try:
            if self._take_or_renew():
                self._held_until = asked_at + self._times.renew_deadline
            self._trouble = ""
        except (AlreadyExists, Conflict):
            self._trouble = ""  # somebody was faster; whether we still hold it shows next time
        except ApiError as error:
            if str(error) != self._trouble:  # say it once, not every other second
                _log.warning("cannot read or renew the lease: %s", error, extra={"lease": self._name})
            self._trouble = str(error)
        self._tell()

    def _take_or_renew(self) -> bool:
        """Raises ApiError. False if somebody else holds the lease."""
        try:
            lease = _decode(self._client.get(self._path))
        except NotFound:
            self._create()
            return True
        if lease.spec.holder != self._identity and not self._free(lease):
            self._held_until = float("-inf")  # taken from us, if it was ours
            return False
        self._write(lease)
        return True

    def _free(self, lease: _Lease) -> bool:
        if not lease.spec.holder:
            return True
        if lease.metadata.resource_version != self._seen_version:
            self._seen_version, self._seen_at = lease.metadata.resource_version, self._clock()
        return self._clock() - self._seen_at >= (lease.spec.seconds or self._times.lease)

    def _create(self) -> None:
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {**self._mine(), "acquireTime": self._time(), "leaseTransitions": 0},
        }
        self._client.create(self._collection, msgspec.json.encode(body))

    def _write(self, lease: _Lease) -> None:
        """Renew, or take over; only if the lease is as it was read."""
        spec = self._mine()
        if lease.spec.holder != self._identity:
            spec["acquireTime"] = self._time()
            spec["leaseTransitions"] = (lease.spec.transitions or 0) + 1
        self._patch(lease, spec)

    def _give_back(self) -> None:
        try:
            lease = _decode(self._client.get(self._path))
            if lease.spec.holder == self._identity:
                self._patch(lease, {"holderIdentity": "", "renewTime": self._time()})
        except ApiError as error:
            _log.info("could not give the lease back, it will run out: %s", error, extra={"lease": self._name})

    def _patch(self, lease: _Lease, spec: dict[str, object]) -> None:
        body = {"metadata": {"resourceVersion": lease.metadata.resource_version}, "spec": spec}
        self._client.merge_patch(self._path, msgspec.json.encode(body))

    def _mine(self) -> dict[str, object]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._times.lease,
            "renewTime": self._time(),
        }

    def _time(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _decode(body: bytes) -> _Lease:
    try:
        return msgspec.json.decode(body, type=_Lease)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"not a Lease: {error}", status=200) from error
