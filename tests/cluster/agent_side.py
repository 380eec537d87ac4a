"""The agent's dealings with the API server, driven by hand: no threads, no machine, and a clock that stands."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from kubesim import Cluster
from reconciler.node.desired_source import FileSource
from reconciler.node.mirror import Mirror
from reconciler.node.own_object import COLLECTION, create_own, path_of
from reconciler.node.publisher import Publisher
from reconciler.runtime.kube.cache import Cache, Cached, Key, Seen
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.listing import Raw, list_all
from state.mirroring import OwnObject, decode_own
from state.status import AllocationStatus, NodeStatus
from tests.kube_in_memory import InMemory

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class AgentSide:
    """Mirror and publisher of one node, and a machine that has at once whatever its desired-state file says."""

    def __init__(self, cluster: Cluster, node: str, file: Path, clock: Callable[[], float], seed: int) -> None:
        rng = random.Random(seed)
        self._client = KubeClient(InMemory(cluster), retries=NO_RETRIES, rng=rng, clock=clock)
        self._node = node
        self._cache: Cache[OwnObject] = Cache()
        self._listed = False
        self._mirror = Mirror(file, self._own)
        self._publisher = Publisher(self._client, path_of(node), self._live, clock=clock, rng=rng)
        self._source = FileSource(file, cluster=True)

    def hear(self) -> bool:
        """Learn what the object is like now. False if that could not be found out."""
        query = (("fieldSelector", f"metadata.name={self._node}"),)
        try:
            listing = list_all(self._client, COLLECTION, _seen, query)
        except ApiError:
            return False
        self._cache.replace(listing.objects)
        self._listed = True
        return True

    @property
    def knows_its_object(self) -> bool:
        return self._live() is not None

    def mirror(self) -> None:
        """Put the file right."""
        assert self._mirror.check()

    def publish(self) -> float | None:
        """Write the status if it is time to; in how many seconds to try again."""
        return self._publisher.step()

    def create(self) -> None:
        """Make the object if it is missing."""
        if self._listed and self._live() is None:
            try:
                create_own(self._client, self._node)
            except ApiError:
                return

    def follow(self) -> NodeStatus:
        """Do what the file says, and have a status."""
        state = self._source.latest().state
        entries = () if state is None else state.spec.allocations
        status = NodeStatus(
            boot_id="b",
            version="1",
            observed_generation=None if state is None else state.metadata.generation,
            allocations=tuple(
                AllocationStatus(name=entry.name, origin="claim", phase="Ready", since=NOW) for entry in entries
            ),
        )
        self._publisher.offer(status, None if state is None else state.metadata.uid)
        return status

    def _live(self) -> Cached[OwnObject] | None:
        return self._cache.entry(Key("", self._node))

    def _own(self) -> OwnObject | None:
        live = self._live()
        return None if live is None else live.value


def _seen(raw: Raw) -> Seen[OwnObject]:
    return Seen(key=raw.key, uid=raw.uid, resource_version=raw.resource_version, value=decode_own(raw.body))
