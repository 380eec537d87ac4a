"""The node agent's dealings with the API server: its own GpuNodeState in; status, ResourceSlices and Events out.

Nothing here holds the loop up. While the API server is away the machine goes on converging to the last file, and
what changed meanwhile is published once, when it is back.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reconciler.node.agent import Pass
from reconciler.node.claim_status_writer import ClaimStatusWriter
from reconciler.node.mirror import Mirror
from reconciler.node.own_object import COLLECTION, create_own, path_of
from reconciler.node.publisher import Publisher
from reconciler.node.roots import Roots
from reconciler.node.slice_publisher import SlicePublisher, SliceSettings
from reconciler.node.slice_registration import ServerInfoFiles, is_registered
from reconciler.node.slice_side import SliceSide
from reconciler.runtime.backoff import Backoff
from reconciler.runtime.kube.cache import Cached, Key
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.event_bodies import EventType, Regarding
from reconciler.runtime.kube.events import EventRecorder
from reconciler.runtime.kube.reflector import Reflector, Timing
from reconciler.runtime.kube.threads import OnCrash
from reconciler.runtime.metrics import Metrics
from reconciler.runtime.wakeups import WakeSet
from state.happenings import Happening, happenings, releases
from state.manifest import API_VERSION, KIND, Policy
from state.mirroring import OwnObject, decode_own
from state.planning import NotSynced
from state.profiles import ProfileTable
from state.status import NodeStatus

CHECK_SECONDS = 10.0
"""How often the file and the object are compared with what they should be although nothing was heard."""

RETRY_SECONDS = 1.0
"""When to try again to write the file: a disk that is full stays so for a while."""

SETTLE_SECONDS = 0.02
"""How long to wait for more news before telling the API server: an entry's way to Ready is two passes, a few
milliseconds apart, and pods wait for those, not for the object's status."""

_TIMING = Timing(longest_wait=5.0)
"""One object a node: the API server can bear to be asked again sooner than by those who watch everything."""

_CHANGED = "changed"
_CREATE = "create"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which node this is, the desired-state file to keep, and the status as it was before a restart.

    ``offer`` is what the agent's flags say of the node's offer where the policy is silent.
    """

    node: str
    file: Path
    roots: Roots
    table: ProfileTable
    offer: Policy
    last_status: NodeStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    """How the machine is, and the UID of the object whose manifest it follows."""

    status: NodeStatus
    uid: str | None


class ClusterSide:
    """Mirror and publishers of one node. ``run`` is their thread; the other methods may come from any."""

    def __init__(
        self,
        place: Place,
        client: KubeClient,
        *,
        metrics: Metrics,
        on_crash: OnCrash,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._place, self._client, self._clock = place, client, clock
        self._wakes = WakeSet()
        self._backoff: Backoff[str] = Backoff(0.5, 30.0, rng)
        self._reflector: Reflector[OwnObject] = Reflector(
            client,
            COLLECTION,
            decode_own,
            lambda _: self._heard(),
            query=(("fieldSelector", f"metadata.name={place.node}"),),
            on_crash=on_crash,
            timing=_TIMING,
            metrics=metrics,
            clock=clock,
            rng=rng,
        )
        self._mirror = Mirror(place.file, self._own)
        self._publisher = Publisher(client, path_of(place.node), self._live, clock=clock, rng=rng)
        self._events = EventRecorder(
            client, "gpu.dra.intel.com/node", place.node, metrics=metrics, on_crash=on_crash, clock=clock
        )
        self._server = ServerInfoFiles(Path(place.roots.server_file), Path(place.roots.lasting_server_file))
        slices = SlicePublisher(
            client,
            SliceSettings(
                node=place.node,
                table=place.table,
                registered=lambda driver: is_registered(Path(place.roots.lock_dir), driver),
                defaults=place.offer,
            ),
            wake=self.look_again,
            server_found=self._server.store,
            metrics=metrics,
            on_crash=on_crash,
            clock=clock,
            rng=rng,
            shown=None if place.last_status is None else place.last_status.withdrawn,
        )
        self._slices = SliceSide(slices, ClaimStatusWriter(client, clock=clock, rng=rng))
        self._told = place.last_status
        self._told_stale: frozenset[str] = frozenset()
        # Replaced as a whole by the agent's thread and read by ours: a status never goes with another's object.
        self._news = None if place.last_status is None else _News(status=place.last_status, uid=None)

    def followed(self, done: Pass) -> None:
        """A pass of the agent is over."""
        state = done.source.state
        self._slices.offer(done.status, None if state is None else state.spec)
        if not isinstance(done.desired, NotSynced):
            self._tell_news(done)
        news = _News(status=done.status, uid=None if state is None else state.metadata.uid)
        if news != self._news:
            self._news = news
            self._wakes.wake(_CHANGED)

    def look_again(self) -> None:
        """A file of ours may have changed: the desired state, or a lock of the kubelet plugin."""
        self._wakes.wake(_CHANGED)

    def run(self) -> None:
        """Keep file, object and status in step until stopped."""
        self._recall_server()
        self._reflector.start()
        self._events.start()
        wait: float | None = 0.0
        while not self._wakes.closed:
            self._wakes.wait(wait, settle=SETTLE_SECONDS)
            if not self._wakes.closed:
                wait = self._step()
        self._slices.stop()
        self._reflector.stop()
        self._events.stop()

    def stop(self) -> None:
        """End ``run`` soon; a request under way is left to itself."""
        self._wakes.close()
        self._client.close()

    def _step(self) -> float:
        written = self._mirror.check()
        due = [CHECK_SECONDS if written else RETRY_SECONDS]
        if self._is_missing():
            due.append(self._create())
        elif self._live() is not None:
            self._backoff.succeeded(_CREATE)
        for soon in (self._slices.step(), self._publish()):
            if soon is not None:
                due.append(soon)
        return max(0.0, min(due))

    def _publish(self) -> float | None:
        """After the slices: a withdrawal is told to the controller once schedulers can see it."""
        news = self._news
        if news is not None:
            withdrawn = self._slices.withdrawn(news.status.withdrawn)
            self._publisher.offer(msgspec.structs.replace(news.status, withdrawn=withdrawn), news.uid)
        return self._publisher.step()

    def _recall_server(self) -> None:
        try:
            self._server.recall()
        except OSError as error:
            _log.warning("what the API server was like before the boot can't be recalled: %s", error)

    def _heard(self) -> None:
        # In the watch's own thread, as somebody waits for the file; a failure is seen to by ``run``.
        self._mirror.check()
        self._wakes.wake(_CHANGED)

    def _live(self) -> Cached[OwnObject] | None:
        return self._reflector.cache.entry(Key("", self._place.node))

    def _own(self) -> OwnObject | None:
        live = self._live()
        return None if live is None else live.value

    def _is_missing(self) -> bool:
        reflector = self._reflector
        known = self._live() is not None or reflector.cache.undecodable()
        return reflector.synced.is_set() and not reflector.absent and not known

    def _create(self) -> float:
        """Returns in how many seconds to look again."""
        now = self._clock()
        if not self._backoff.ready(_CREATE, now):
            return self._backoff.next_due(now) or 0.0
        try:
            create_own(self._client, self._place.node)
        except ApiError as error:
            if self._backoff.attempts(_CREATE) == 0:
                _log.warning("can't create the GpuNodeState of this node: %s", error)
            return max(self._backoff.failed(_CREATE, now), error.retry_after or 0.0)
        # The watch tells of it; should it go at once again, that is tried again, but not in a hurry.
        return self._backoff.failed(_CREATE, now)

    def _tell_news(self, done: Pass) -> None:
        told = releases(self._told_stale, done.plan.stale)
        if done.status != self._told:
            told += happenings(self._told, done.status)
        self._told, self._told_stale = done.status, done.plan.stale
        state = done.source.state
        sources = {one.name: one.source for one in state.spec.allocations} if told and state is not None else {}
        for happening in told:
            self._tell(happening, sources)

    def _tell(self, happening: Happening, sources: Mapping[str, str]) -> None:
        kind = EventType.WARNING if happening.warning else EventType.NORMAL
        if happening.about is None:
            regarding = self._of_node()
        else:
            claim = happening.about
            regarding = Regarding(
                api_version=sources.get(claim.uid) or "resource.k8s.io/v1",
                kind="ResourceClaim",
                name=claim.name,
                namespace=claim.namespace,
                uid=claim.uid,
            )
        self._events.record(regarding, kind, happening.reason, happening.note, happening.action)

    def _of_node(self) -> Regarding:
        live = self._live()
        uid = "" if live is None else live.uid
        return Regarding(api_version=API_VERSION, kind=KIND, name=self._place.node, uid=uid)
