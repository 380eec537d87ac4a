"""The services that a kubelet may be offered: one row for each, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc

from plugin import dra_service, health_service
from plugin.health_feed import HealthFeed
from plugin.node_calls import NodeCalls


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What services are made of."""

    calls: NodeCalls
    health: HealthFeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. ``name`` is what ``server.json`` and the registration call it."""

    name: str
    handler: Callable[[Offer], grpc.GenericRpcHandler]


SERVICES = (
    Service(
        name="v1.DRAPlugin",
        handler=lambda offer: dra_service.handler("v1", offer.calls, share_ids=True),
    ),
    Service(
        name="v1beta1.DRAPlugin",
        handler=lambda offer: dra_service.handler("v1beta1", offer.calls, share_ids=False),
    ),
    Service(
        name="v1.DRAResourceHealth",
        handler=lambda offer: health_service.handler("v1", offer.health),
    ),
    Service(
        name="v1alpha1.DRAResourceHealth",
        handler=lambda offer: health_service.handler("v1alpha1", offer.health),
    ),
)
"""In the order of registration: current kubelets take the first of a kind that they know."""


def chosen(names: Iterable[str]) -> tuple[Service, ...]:
    """The rows for these names. What this release has no row for is left out: it can't serve it."""
    wanted = frozenset(names)
    return tuple(service for service in SERVICES if service.name in wanted)
