"""Versions of resource.k8s.io that the node agent knows, and what the kubelets of each call: a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from state.classic.claims import DRIVERS
from state.server_info import MESSAGE_FORM, STRING_FORM, ServerInfo
from state.slices.devices import DOMAIN

SLICES: Final = "resourceslices"

EVERY_DRIVER: Final = (DOMAIN, *DRIVERS)
"""Names under which the kubelet plugin is registered, in one row or another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRow:
    """One version, taken where the server has the resource ``needs`` in it.

    ``services`` are the names of what its kubelets may call: those of the release that serves this version best,
    and older ones that a cluster of that release may still have.
    """

    version: str
    needs: str
    services: tuple[str, ...]

    @property
    def classic(self) -> bool:
        """Whether our controller allocates. Then schedulers read no ResourceSlices, and there are to be none."""
        return self.needs != SLICES

    def info(self, driver: str) -> ServerInfo:
        """What to tell the kubelet plugin. ``driver`` is that of slices; classic classes have others."""
        drivers = DRIVERS if self.classic else (driver,)
        return ServerInfo(
            row=self.version, driver_names=drivers, grpc_services=dict.fromkeys(drivers, self.services)
        )


_CURRENT: Final = ("v1.DRAPlugin", "v1beta1.DRAPlugin", "v1alpha1.DRAResourceHealth")

SERVER_ROWS: Final = (
    ServerRow(version="v1", needs=SLICES, services=_CURRENT),
    ServerRow(version="v1beta2", needs=SLICES, services=_CURRENT),
    ServerRow(version="v1beta1", needs=SLICES, services=(*_CURRENT, MESSAGE_FORM)),
    ServerRow(version="v1alpha3", needs="podschedulingcontexts", services=(MESSAGE_FORM,)),
    ServerRow(version="v1alpha3", needs=SLICES, services=(MESSAGE_FORM,)),
    ServerRow(version="v1alpha2", needs="podschedulingcontexts", services=(STRING_FORM, "v1alpha2.Node")),
    ServerRow(version="v1alpha1", needs="podschedulings", services=("v1alpha1.Node",)),
)
"""Best first. Kubernetes 1.26 has v1alpha1, 1.27 to 1.30 have v1alpha2; 1.31 has v1alpha3, and in it what classic
allocation needs only where that is switched on: then it is classic, although it has slices too."""
