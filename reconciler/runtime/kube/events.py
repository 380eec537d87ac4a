"""Telling people what happened, where they look for it (`kubectl describe`), without ever standing in the way."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import (
    AlreadyExists,
    ApiError,
    NotFound,
    ServerFault,
    TooManyRequests,
    Unreachable,
)
from reconciler.runtime.kube.event_bodies import (
    CoreV1,
    EventForm,
    EventsV1,
    EventType,
    Occurrence,
    Regarding,
    Source,
    event_name,
    namespace_of,
)
from reconciler.runtime.kube.measures import EVENTS
from reconciler.runtime.kube.threads import OnCrash, start_thread
from reconciler.runtime.metrics import Metrics

_REQUEST_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restraint:
    """How much is said. Times in seconds.

    `waiting`: different events held until they can be sent, beyond it the oldest is dropped. `burst` events go
    out at once, then one each `pace`. A repetition is told at most every `series_every`; after
    `series_forgotten` without one, the same thing is a new event. Sending is tried `attempts` times.
    """

    waiting: int = 256
    burst: int = 20
    pace: float = 0.2
    series_every: float = 10.0
    series_forgotten: float = 360.0
    series_known: int = 1024
    attempts: int = 5


DEFAULT_RESTRAINT = Restraint()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    count: int
    first: datetime
    last: datetime
    due: float
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    path: str
    count: int
    at: float


class EventRecorder:
    """Sends events from a thread of its own; record() only notes them down.

    The same thing happening again becomes one event with a count. Nothing about events ever fails anybody: what
    can't be sent is counted, and logged once per kind of failure.
    """

    def __init__(
        self,
        client: KubeClient,
        component: str,
        instance: str,
        *,
        restraint: Restraint = DEFAULT_RESTRAINT,
        metrics: Metrics | None = None,
        on_crash: OnCrash | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client.patience(retries=NO_RETRIES, timeout=_REQUEST_SECONDS)
        self._source = Source(component=component, instance=instance)
        self._restraint = restraint
        self._metrics = metrics
        self._on_crash = on_crash
        self._clock = clock
        self._now = now
        self._form: EventForm = EventsV1()
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Occurrence, _Waiting] = OrderedDict()
        self._told: OrderedDict[Occurrence, _Told] = OrderedDict()
        self._allowance = float(restraint.burst)
        self._allowance_at = clock()
        self._ends_at: float | None = None
        self._failures_logged: set[str] = set()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin sending. Once only."""
        if self._thread is not None:
            raise ValueError("this recorder has been started before")
        self._thread = start_thread("events", self._run, self._on_crash)

    def record(self, regarding: Regarding, type: EventType, reason: str, note: str, action: str) -> None:
        """Note that something happened. `reason` and `action` are CamelCase words, `note` a sentence."""
        occurrence = Occurrence(regarding=regarding, type=type, reason=reason, note=note, action=action)
        at = self._now()
        dropped = 0
        with self._changed:
            waiting = self._waiting.get(occurrence)
            if waiting is not None:
                self._waiting[occurrence] = replace(waiting, count=waiting.count + 1, last=at)
            else:
                due = self._due_of_new(occurrence)
                self._waiting[occurrence] = _Waiting(count=1, first=at, last=at, due=due)
                while len(self._waiting) > self._restraint.waiting:
                    self._waiting.popitem(last=False)
                    dropped += 1
            self._changed.notify()
        if dropped:
            self._count("dropped", dropped)

    def stop(self, flush: float = 1.0) -> None:
        """Send what is waiting for up to `flush` seconds, then end."""
        with self._changed:
            self._ends_at = self._clock() + flush
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(flush)

    def _due_of_new(self, occurrence: Occurrence) -> float:
        told = self._told.get(occurrence)
        now = self._clock()
        return now if told is None else max(now, told.at + self._restraint.series_every)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            occurrence, waiting = taken
            try:
                self._send(occurrence, waiting)
                self._count("sent")
            except ApiError as error:
                self._after_failure(occurrence, waiting, error)

    def _take(self) -> tuple[Occurrence, _Waiting] | None:
        """Wait for the next event that may be sent; None at the end."""
        with self._changed:
            while True:
                now = self._clock()
                ending = self._ends_at is not None
                if self._ends_at is not None and (not self._waiting or now >= self._ends_at):
                    return None
                self._refill(now)
                due = min(self._waiting, key=lambda each: self._waiting[each].due, default=None)
                if due is None:
                    self._changed.wait()
                    continue
                wait = 0.0 if ending else self._waiting[due].due - now
                if self._allowance < 1 and not ending:
                    wait = max(wait, (1 - self._allowance) * self._restraint.pace)
                if wait <= 0:
                    self._allowance -= 1
                    return due, self._waiting.pop(due)
                self._changed.wait(wait)

    def _refill(self, now: float) -> None:
        earned = (now - self._allowance_at) / self._restraint.pace
        self._allowance = min(float(self._restraint.burst), self._allowance + earned)
        self._allowance_at = now

    def _send(self, occurrence: Occurrence, waiting: _Waiting) -> None:
        """Raises ApiError."""
        told = self._told.get(occurrence)
        if told is not None and self._clock() - told.at < self._restraint.series_forgotten:
            try:
                self._send_again(occurrence, waiting, told)
                return
            except NotFound:
                pass  # the server keeps events for an hour or so: told anew
        path = self._create(occurrence, waiting)
        self._remember(occurrence, path, 1)
        if waiting.count > 1:
            self._send_again(occurrence, replace(waiting, count=waiting.count - 1), self._told[occurrence])

    def _create(self, occurrence: Occurrence, waiting: _Waiting) -> str:
        namespace = namespace_of(occurrence.regarding)
        name = event_name(occurrence, waiting.first)
        try:
            self._post(occurrence, name, waiting.first)
        except NotFound as error:
            if not error.resource_absent or isinstance(self._form, CoreV1):
                raise
            self._form = CoreV1()
            self._post(occurrence, name, waiting.first)
        return f"{self._form.collection(namespace)}/{name}"

    def _post(self, occurrence: Occurrence, name: str, at: datetime) -> None:
        body = self._form.created(occurrence, self._source, name, at)
        try:
            self._client.create(self._form.collection(namespace_of(occurrence.regarding)), body)
        except AlreadyExists:
            return  # an earlier attempt whose answer was lost

    def _send_again(self, occurrence: Occurrence, waiting: _Waiting, told: _Told) -> None:
        count = told.count + waiting.count
        self._client.merge_patch(told.path, self._form.repeated(occurrence, count, waiting.last))
        self._remember(occurrence, told.path, count)

    def _remember(self, occurrence: Occurrence, path: str, count: int) -> None:
        with self._changed:
            self._told[occurrence] = _Told(path=path, count=count, at=self._clock())
            self._told.move_to_end(occurrence)
            while len(self._told) > self._restraint.series_known:
                self._told.popitem(last=False)

    def _after_failure(self, occurrence: Occurrence, waiting: _Waiting, error: ApiError) -> None:
        passing = isinstance(error, Unreachable | ServerFault | TooManyRequests)
        attempts = waiting.attempts + 1
        if not passing or attempts >= self._restraint.attempts or self._ends_at is not None:
            self._count("failed")
            kind = f"{type(error).__name__} {error.reason}"
            if kind not in self._failures_logged:
                self._failures_logged.add(kind)
                _log.warning("an event could not be sent: %s", error)
            return
        due = self._clock() + max(error.retry_after or 0.0, 2.0**attempts * self._restraint.pace)
        with self._changed:
            newer = self._waiting.pop(occurrence, None)
            again = replace(waiting, attempts=attempts, due=due)
            if newer is not None:
                again = replace(again, count=again.count + newer.count, last=newer.last)
            self._waiting[occurrence] = again
            self._waiting.move_to_end(occurrence, last=False)

    def _count(self, result: str, amount: int = 1) -> None:
        if self._metrics is not None:
            self._metrics.count(EVENTS, amount, result=result)
