"""All of a node's dealings with schedulers: its ResourceSlices, and the status of claims' devices."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from reconciler.node.claim_status_writer import ClaimStatusWriter
from reconciler.node.slice_publisher import SlicePublisher
from state.manifest import Spec
from state.slices.claim_status import WITHOUT_DEVICE_STATUS, claim_statuses
from state.status import NodeStatus


class SliceSide:
    """Slices first, as claims are told of a failure only when schedulers know to avoid that GPU.

    ``step`` and ``stop`` belong to one thread; ``offer`` and ``withdrawn`` may come from any.
    """

    def __init__(self, slices: SlicePublisher, claims: ClaimStatusWriter) -> None:
        self._slices, self._claims = slices, claims
        self._lock = threading.Lock()
        self._offer: tuple[NodeStatus, Spec] | None = None

    def offer(self, status: NodeStatus, spec: Spec | None) -> None:
        """This is how the machine is, and the manifest that it follows; without one nothing is changed."""
        if spec is not None:
            with self._lock:
                self._offer = (status, spec)
            self._slices.offer(status, spec)

    def withdrawn(self, begun: Mapping[str, str]) -> dict[str, str]:
        """The withdrawals to be told to the controller, of those the node has ``begun`` and of our own."""
        return self._slices.withdrawn(begun)

    def step(self) -> float | None:
        """Do what is due. Returns in how many seconds to call again, None for when something changes."""
        waits = [self._slices.step(), self._tell_claims()]
        return min((wait for wait in waits if wait is not None), default=None)

    def stop(self) -> None:
        """End the watch of slices."""
        self._slices.stop()

    def _tell_claims(self) -> float | None:
        with self._lock:
            offer = self._offer
        row = self._slices.row
        if offer is None or row is None or row in WITHOUT_DEVICE_STATUS:
            return None
        status, spec = offer
        told = claim_statuses(
            status,
            spec.allocations,
            row=row,
            driver=self._slices.driver,
            binding=self._slices.waits_for_vfs,
            avoided=self._slices.avoided,
        )
        self._claims.offer(told)
        return self._claims.step()
