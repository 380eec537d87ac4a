"""The services that a kubelet may be offered: one row for each, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc

from plugin import classic_service, dra_service, health_service
from plugin.health_feed import HealthFeed
from plugin.node_calls import NodeCalls
from state.server_info import MESSAGE_FORM, STRING_FORM

_DRA = "k8s.io.kubelet.pkg.apis.dra"
_GENERIC = "1.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What services are made of."""

    calls: NodeCalls
    health: HealthFeed


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service. ``name`` is what ``server.json`` calls it, ``versions`` what it is at registration.

    Kubelets up to 1.31 want a version 1.x there, whatever they call.
    """

    name: str
    versions: tuple[str, ...]
    handler: Callable[[Offer], grpc.GenericRpcHandler]


SERVICES = (
    Service(
        name="v1.DRAPlugin",
        versions=("v1.DRAPlugin",),
        handler=lambda offer: dra_service.handler(f"{_DRA}.v1.DRAPlugin", "v1", offer.calls, share_ids=True),
    ),
    Service(
        name="v1beta1.DRAPlugin",
        versions=("v1beta1.DRAPlugin",),
        handler=lambda offer: dra_service.handler(
            f"{_DRA}.v1beta1.DRAPlugin", "v1beta1", offer.calls, share_ids=False
        ),
    ),
    Service(
        # As Kubernetes 1.31 to 1.33 have it; 1.31 takes any version 1.x. Older kubelets call the same path and
        # expect another answer, so server.json never has this and the next one.
        name=MESSAGE_FORM,
        versions=("v1alpha3.NodeService", _GENERIC),
        handler=lambda offer: dra_service.handler("v1alpha3.Node", "v1alpha3", offer.calls, share_ids=False),
    ),
    Service(
        name=STRING_FORM,
        versions=(_GENERIC,),
        handler=lambda offer: classic_service.several_claims_handler(offer.calls),
    ),
    Service(
        name="v1alpha2.Node",
        versions=(_GENERIC,),
        handler=lambda offer: classic_service.single_claim_handler("v1alpha2", offer.calls),
    ),
    Service(
        name="v1alpha1.Node",
        versions=(_GENERIC,),
        handler=lambda offer: classic_service.single_claim_handler("v1alpha1", offer.calls),
    ),
    Service(
        name="v1.DRAResourceHealth",
        versions=("v1.DRAResourceHealth",),
        handler=lambda offer: health_service.handler("v1", offer.health),
    ),
    Service(
        name="v1alpha1.DRAResourceHealth",
        versions=("v1alpha1.DRAResourceHealth",),
        handler=lambda offer: health_service.handler("v1alpha1", offer.health),
    ),
)
"""In the order of registration: current kubelets take the first of a kind that they know."""


def chosen(names: Iterable[str]) -> tuple[Service, ...]:
    """The rows for these names. What this release has no row for is left out: it can't serve it."""
    wanted = frozenset(names)
    return tuple(service for service in SERVICES if service.name in wanted)
