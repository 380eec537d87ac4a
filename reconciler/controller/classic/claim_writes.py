"""Writing claims and what the scheduler is told: each write is refused where the object has changed."""

from __future__ import annotations

import msgspec

from reconciler.controller.classic.known_claims import KnownClaims
from reconciler.controller.front_ends import Classic, FrontEnd
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Garbled
from state.classic.claims import ClassicClaim, Consumer
from state.classic.scheduling import PodScheduling
from state.classic.writes import allocated, deallocated, fenced, unfenced
from state.dra.node_object import Entry


class ClaimWrites:
    """Writes in one version of resource.k8s.io. All raise ApiError, Conflict where the object has changed."""

    def __init__(self, client: KubeClient, row: FrontEnd, classic: Classic, claims: KnownClaims) -> None:
        self._client = client
        self._claims = claims
        self._row = row
        self._classic = classic

    def fence(self, claim: ClassicClaim, driver: str) -> ClassicClaim:
        """Set our finalizer; returns the claim as it is with it."""
        if claim.fence:
            return claim
        return self._patch(claim, "", fenced(claim, driver))

    def unfence(self, claim: ClassicClaim) -> None:
        """Take our finalizer away. A claim that is being deleted may be gone then."""
        self._patch(claim, "", unfenced(claim))

    def allocate(
        self,
        claim: ClassicClaim,
        entry: Entry,
        *,
        driver: str,
        node: str,
        shareable: bool,
        user: Consumer | None,
    ) -> None:
        """Tell what stands in the ledger."""
        body = allocated(
            claim,
            self._classic.dialect,
            driver=driver,
            node=node,
            devices=entry.devices,
            shareable=shareable,
            user=user,
        )
        self._patch(claim, "/status", body)

    def deallocate(self, claim: ClassicClaim) -> ClassicClaim:
        """Take the allocation back; returns the claim as it is without."""
        return self._patch(claim, "/status", deallocated(claim))

    def answer(self, scheduling: PodScheduling, body: bytes) -> None:
        """Tell the scheduler which nodes are unsuitable."""
        path = self._row.path_of(self._classic.schedulings, scheduling.namespace, scheduling.name)
        self._client.merge_patch(f"{path}/status", body)

    def _patch(self, claim: ClassicClaim, subresource: str, body: bytes) -> ClassicClaim:
        path = self._row.claim_path(claim.ref) + subresource
        answer = self._client.merge_patch(path, body)
        try:
            after = self._classic.reader.negotiated(answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Garbled(f"not a claim: {error}", status=200, about=path) from error
        self._claims.take_answer(claim, after)
        return after
