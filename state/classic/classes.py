"""ResourceClasses, and DeviceClasses of 1.31: whose claims are ours, and with which parameters."""

from __future__ import annotations

import msgspec

from state.classic.claims import DRIVERS, ClassicClaim, Reference
from state.classic.node_selectors import NodeSelector


class ResourceClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class. ``suitable_nodes`` restricts where its claims may be allocated; None: anywhere.

    DeviceClasses have what follows that: whether they select devices, and parameters (JSON) with their driver.
    """

    name: str
    driver: str
    parameters: Reference | None
    suitable_nodes: NodeSelector | None
    selected: bool = False
    embedded: tuple[tuple[str, bytes], ...] = ()

    @property
    def ours(self) -> bool:
        """Whether its claims are for us to allocate."""
        return self.driver in DRIVERS


class _Metadata(msgspec.Struct):
    name: str


class _Class(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    driver_name: str = ""
    parameters_ref: Reference | None = None
    suitable_nodes: NodeSelector | None = None


_read = msgspec.json.Decoder(_Class).decode


def read_class(raw: bytes) -> ResourceClass:
    """A ResourceClass of any version. Raises ``msgspec.DecodeError``, which names the field."""
    wire = _read(raw)
    return ResourceClass(
        name=wire.metadata.name,
        driver=wire.driver_name,
        parameters=wire.parameters_ref,
        suitable_nodes=wire.suitable_nodes,
    )


def for_claim(of_class: ResourceClass, claim: ClassicClaim) -> ResourceClass:
    """The class as it is for one of its claims: in 1.31 it is they who name the driver."""
    return of_class if claim.asked is None else msgspec.structs.replace(of_class, driver=claim.asked.driver)
