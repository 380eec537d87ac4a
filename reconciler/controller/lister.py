"""Consistent lists of all claims, for withdrawals: rare, one for all nodes that need one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import msgspec

from reconciler.controller.front_ends import FrontEnd
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Expired, Garbled
from reconciler.runtime.kube.listing import PAGE
from reconciler.runtime.kube.transport import Query
from state.dra.node_view import Listing
from state.dra.resource_claims import Claim

_log = logging.getLogger(__name__)


class Lister:
    """Lists claims when nodes have asked for it. One thread serves; any may ask and read.

    A list without a resourceVersion is answered from what the server's quorum agreed on, never from a cache that
    is behind (Kubernetes API concepts: "Most Recent").
    """

    def __init__(self, client: KubeClient, front_end: Callable[[], FrontEnd], clock: Callable[[], float]) -> None:
        self._client = client
        self._front_end = front_end
        self._clock = clock
        self._changed = threading.Condition()
        self._wanted: set[str] = set()
        self._found: dict[str, Listing] = {}
        self._closed = False

    def want(self, node: str) -> None:
        """Ask for a list that begins after now."""
        with self._changed:
            self._wanted.add(node)
            self._changed.notify()

    def found(self, node: str) -> Listing | None:
        """The last list, as far as it concerns this node, if it had asked for it."""
        with self._changed:
            return self._found.get(node)

    def forget(self, node: str) -> None:
        """The node needs its list no more."""
        with self._changed:
            self._found.pop(node, None)

    def wait(self) -> bool:
        """Wait until a list is asked for; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._wanted)
            return not self._closed

    def serve(self) -> frozenset[str]:
        """Make a list and give it to those who asked before it began; returns them. Raises ApiError."""
        with self._changed:
            asking = frozenset(self._wanted)
        started = self._clock()
        claims: dict[str, list[Claim]] = {node: [] for node in asking}
        count = 0
        for claim in self._all():
            count += 1
            for node in claim.nodes & asking:
                claims[node].append(claim)
        with self._changed:
            self._wanted -= asking
            self._found |= {node: Listing(started=started, claims=tuple(found)) for node, found in claims.items()}
        _log.info("listed all claims", extra={"claims": count, "nodes": len(asking)})
        return asking

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _all(self) -> list[Claim]:
        try:
            return self._pages(("limit", str(PAGE)))
        except Expired:
            return self._pages()

    def _pages(self, *limit: tuple[str, str]) -> list[Claim]:
        row = self._front_end()
        claims: list[Claim] = []
        onwards: Query = ()
        while True:
            body = self._client.get(row.claims_path, (*limit, *onwards))
            try:
                page = row.reader.page(body)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Garbled(f"not a list of claims: {error}", status=200, about=row.claims_path) from error
            claims += page.claims
            if not page.continue_token:
                return claims
            onwards = (("continue", page.continue_token),)
