"""Keeps the node's ResourceSlices as the machine is and people want it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.node import agent_metrics as measures
from reconciler.node.slice_server import (
    find_capabilities,
    find_row,
    node_reference,
    server_minor,
    slices_path,
)
from reconciler.node.slice_writer import Lossy, SliceWriter
from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError, NotFound
from reconciler.runtime.kube.reflector import Reflector, Timing
from reconciler.runtime.kube.threads import OnCrash
from reconciler.runtime.metrics import Metrics
from state.manifest import Layout, Policy, Spec
from state.profiles import ProfileTable
from state.server_info import ServerInfo
from state.server_rows import ServerRow
from state.slices.capabilities import Capabilities
from state.slices.comparing import Create, Write, compare
from state.slices.desired import desired
from state.slices.devices import DOMAIN
from state.slices.failures import Failures, followed, recalled
from state.slices.model import Device, LiveSlice
from state.slices.ordering import REORDER_SECONDS, order_of
from state.slices.view import DEFAULTS, View, with_defaults, withdrawal_key
from state.slices.wire import Json, decode_slice
from state.status import NodeStatus

SYNC_SECONDS = 0.1
"""How often to look whether the first list of slices is there."""

CHECK_SECONDS = 300.0
"""How often the server is asked whether it is still the release that was probed."""

_TIMING = Timing(longest_wait=5.0)
_SERVER, _WRITE = "server", "write"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSettings:
    """Whose slices, and what the agent's flags say where the manifest's policy is silent.

    ``registered`` says whether the kubelet plugin is registered for a driver: only then are slices made.
    """

    node: str
    table: ProfileTable
    registered: Callable[[str], bool]
    defaults: Policy = DEFAULTS
    driver: str = DOMAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """One version of the API: what its server can do, the watch of our slices, and their writer."""

    can: Capabilities
    reflector: Reflector[LiveSlice]
    writer: SliceWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rest:
    """All was as it should be ``given`` this, and stays so until then."""

    given: object
    until: float


class SlicePublisher:
    """Writes slices wherever they are not as the newest offer wants them. ``step`` and ``stop`` belong to one
    thread, ``offer`` and ``withdrawn`` may come from any.

    ``wake`` is called when a slice has changed: ``step`` has something to do then. ``server_found`` hears which
    version of the API was chosen.
    """

    def __init__(
        self,
        client: KubeClient,
        settings: SliceSettings,
        *,
        wake: Callable[[], None],
        server_found: Callable[[ServerInfo], None],
        metrics: Metrics,
        on_crash: OnCrash | None,
        clock: Callable[[], float],
        rng: random.Random,
        shown: Mapping[str, str] | None = None,
    ) -> None:
        self._client, self._settings, self._wake, self._server_found = client, settings, wake, server_found
        self._metrics, self._on_crash, self._clock, self._rng = metrics, on_crash, clock, rng
        self._backoff: Backoff[str] = Backoff(0.2, 30.0, rng)
        self._lock = threading.Lock()
        self._offer: tuple[NodeStatus, Spec] | None = None
        self._row: ServerRow | None = None
        self._watched: _Watched | None = None
        self._unserved = False
        self._not_before = self._check_server_at = float("-inf")
        self._lossy_minor: int | None = None
        self._owner: Json | None = None
        self._tokens: dict[str, str] = {}
        self._shown: dict[str, str] = dict(shown or {})
        self._failures: Failures | None = None
        self._order: tuple[str, ...] = ()
        self._order_until = float("-inf")
        self._standing: View | None = None
        self._published: tuple[Device, ...] = ()
        self._instead: Layout | None = None
        self._rest: _Rest | None = None

    @property
    def driver(self) -> str:
        """The driver whose devices are published."""
        return self._settings.driver

    @property
    def row(self) -> str | None:
        """The version that slices are written in; None where there are none, or that has yet to be found out."""
        return None if self._watched is None else self._watched.can.row

    @property
    def waits_for_vfs(self) -> bool:
        """Whether the slices that stand have pods wait for their VFs before they are bound."""
        return self._standing is not None and self._standing.waits_for_vfs

    @property
    def avoided(self) -> frozenset[str]:
        """GPUs that schedulers have been told to avoid, as their VFs can't be made."""
        return frozenset() if self._standing is None else self._standing.failed

    def offer(self, status: NodeStatus, spec: Spec | None) -> None:
        """This is how the machine is, and the manifest that it follows; without one nothing is changed."""
        if spec is not None:
            with self._lock:
                self._offer = (status, spec)

    def withdrawn(self, begun: Mapping[str, str]) -> dict[str, str]:
        """Of the withdrawals the node has ``begun``, and our own, those to be told to the controller.

        It takes schedulers to have seen a taint a second after it was told; so it is told once that is there.
        """
        with self._lock:
            every = {withdrawal_key(name): token for name, token in self._tokens.items()} | dict(begun)
            if self._unserved:
                return every
            return {name: token for name, token in sorted(every.items()) if self._shown.get(name) == token}

    def step(self) -> float | None:
        """Do what is due. Returns in how many seconds to call again, None for when something changes."""
        with self._lock:
            offer = self._offer
        if offer is None:
            return None
        now = self._clock()
        if now < self._not_before:
            return self._not_before - now
        try:
            if now >= self._check_server_at or (self._watched is not None and self._watched.reflector.absent):
                self._check_server()
        except ApiError as error:
            return self._failed(_SERVER, error)
        self._backoff.succeeded(_SERVER)
        watched = self._watched
        if watched is None:
            return max(0.0, self._check_server_at - now)
        if not watched.reflector.synced.is_set():
            return SYNC_SECONDS
        return self._publish(watched, *offer)

    def stop(self) -> None:
        """End the watch. Slices stay as they are: a node without its agent still has what claims were given."""
        if self._watched is not None:
            self._watched.reflector.stop()

    # -- the server ----------------------------------------------------------------------------------------

    def _check_server(self) -> None:
        """Find out what the server can do, unless it is the one we know. Raises ApiError."""
        known, probe = self._watched, self._check_server_at == float("-inf")
        gone = known is not None and known.reflector.absent
        if known is None or gone or probe or server_minor(self._client) != known.can.minor:
            self._follow(find_row(self._client))
        self._check_server_at = self._clock() + CHECK_SECONDS

    def _follow(self, row: ServerRow | None) -> None:
        if row is None or row.classic:
            self.stop()
            self._watched = None
        else:
            self._follow_slices(find_capabilities(self._client, row.version, self._settings.node, self.driver))
        with self._lock:
            self._unserved = self._watched is None
        if row is not None:
            if row != self._row:
                _log.info(
                    "devices are allocated by resource.k8s.io/%s, %s",
                    row.version,
                    "classic" if row.classic else "structured",
                )
            self._server_found(row.info(self.driver))
        self._row = row

    def _follow_slices(self, can: Capabilities) -> None:
        known = self._watched
        if can.minor == self._lossy_minor:
            can = replace(can, counters=False)
        if known is None or known.can.row != can.row or known.reflector.absent:
            self.stop()
            self._watched = self._watch(can)
        else:
            self._watched = _Watched(can=can, reflector=known.reflector, writer=known.writer)

    def _watch(self, can: Capabilities) -> _Watched:
        writer = SliceWriter(self._client, can.row, self._reference, self._clock)

        def heard(name: str) -> None:
            writer.heard(name)
            self._wake()

        reflector: Reflector[LiveSlice] = Reflector(
            self._client,
            slices_path(can.row),
            decode_slice,
            lambda key: heard(key.name),
            query=(("fieldSelector", f"spec.nodeName={self._settings.node}"),),
            on_crash=self._on_crash,
            timing=_TIMING,
            metrics=self._metrics,
            clock=self._clock,
            rng=self._rng,
        )
        reflector.start()
        return _Watched(can=can, reflector=reflector, writer=writer)

    def _reference(self) -> Json:
        """The Node, as owner: slices go with it. Raises ApiError."""
        if self._owner is None:
            self._owner = node_reference(self._client, self._settings.node)
        return self._owner

    # -- slices --------------------------------------------------------------------------------------------

    def _publish(self, watched: _Watched, status: NodeStatus, spec: Spec) -> float | None:
        registered = self._settings.registered(self.driver)
        live = watched.writer.live(watched.reflector.cache.entries(), self.driver)
        given = (status, spec, registered, watched.can, watched.writer.state)
        if self._rest is not None and self._rest.given == given and self._clock() < self._rest.until:
            return self._rest.until - self._clock()
        view = self._view(watched.can, status, spec, live)
        self._tell_of_layout(view)
        wanted = desired(view)
        self._begin(wanted.withdrawing)
        writes = compare(live, wanted.slices, watched.writer.stands)
        due = [write for write in writes if registered or not isinstance(write, Create)]
        try:
            kept = self._carry_out(watched.writer, due)
        except ApiError as error:
            if isinstance(error, NotFound) and error.resource_absent:
                self._check_server_at = float("-inf")
            return self._failed(_WRITE, error)
        except Lossy as error:
            _log.error("%s: finding out anew what it can do", error)
            self._lossy_minor, self._check_server_at = watched.can.minor, float("-inf")
            return 0.0
        self._backoff.succeeded(_WRITE)
        if not kept:
            self._check_server_at = float("-inf")
            return 0.0
        if len(due) == len(writes):
            self._published = tuple(device for each in wanted.slices for device in each.devices)
            measures.report_devices(self._metrics, self._published)
        self._show(view, wanted.withdrawing)
        wait = self._next(view)
        self._rest = None if due else _Rest(given=given, until=self._clock() + wait)
        return wait

    def _carry_out(self, writer: SliceWriter, due: Sequence[Write]) -> bool:
        """Whether the server kept all of it. Raises ApiError and Lossy."""
        kept = True
        for done, write in enumerate(due):
            self._metrics.gauge(measures.SLICE_BACKLOG, len(due) - done)
            try:
                kept = writer.carry_out(write) and kept
            except (ApiError, Lossy):
                self._metrics.count(measures.SLICE_WRITES, result="failed")
                raise
            self._metrics.count(measures.SLICE_WRITES, result="ok")
        self._metrics.gauge(measures.SLICE_BACKLOG, 0)
        return kept

    def _view(self, can: Capabilities, status: NodeStatus, spec: Spec, live: Mapping[str, LiveSlice]) -> View:
        now, slices = self._clock(), tuple(live[name] for name in sorted(live))
        before = recalled(slices, status, now) if self._failures is None else self._failures
        self._failures = followed(before, status, now)
        policy = with_defaults(spec.policy, self._settings.defaults)
        if now >= self._order_until:
            order = order_of(status) if policy.reorder else ()
            if order != self._order:
                self._order, self._order_until = order, now + REORDER_SECONDS
        return View(
            node=self._settings.node,
            driver=self._settings.driver,
            status=status,
            spec=spec,
            policy=policy,
            table=self._settings.table,
            capabilities=can,
            live=slices,
            tokens=dict(self._tokens),
            failed=frozenset(self._failures),
            order=self._order,
            published=self._published,
        )

    def _tell_of_layout(self, view: View) -> None:
        wished = view.policy.layout or Layout.AUTO
        instead = None if wished in (Layout.AUTO, view.layout) else view.layout
        if instead is not None and instead is not self._instead:
            _log.warning("this API server can't have layout %s, so it is %s", wished.value, instead.value)
        self._instead = instead

    def _begin(self, withdrawing: frozenset[str]) -> None:
        """Tokens for new withdrawals; those that are over, or that a claim was quicker than, are forgotten."""
        with self._lock:
            self._tokens = {
                name: self._tokens.get(name) or f"{self._rng.getrandbits(64):016x}" for name in sorted(withdrawing)
            }

    def _show(self, view: View, withdrawing: frozenset[str]) -> None:
        """What was withdrawn in this step is published as such now."""
        self._standing = view
        with self._lock:
            own = {withdrawal_key(name): self._tokens[name] for name in withdrawing}
            shown = own | view.status.withdrawn
            news, self._shown = shown != self._shown, shown
        if news:
            self._wake()

    def _next(self, view: View) -> float:
        now = self._clock()
        due = [self._check_server_at, *(failure.until for failure in (self._failures or {}).values())]
        if view.policy.reorder:
            due.append(self._order_until)
        return min((each - now for each in due if each > now), default=0.0)

    def _failed(self, key: str, error: ApiError) -> float:
        if self._backoff.attempts(key) == 0:
            _log.warning("can't publish slices yet: %s", error)
        now = self._clock()
        wait = max(self._backoff.failed(key, now), error.retry_after or 0.0)
        self._not_before = now + wait
        return wait
