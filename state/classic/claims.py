"""Claims of classic DRA: what the controller negotiates about, and what it has allocated already.

1.26 has ``v1alpha1``, 1.27 to 1.30 ``v1alpha2``; they differ in where an allocation keeps the driver's own data
(contracts of resource.k8s.io: one ``resourceHandle``, then a list of ``resourceHandles``). What 1.31 has in its
classic mode is read in ``claims_v1alpha3``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from state.classic.device_requests import Asked
from state.classic.handles import HandleError, results_of
from state.dra.resource_claims import Claim, ClaimPage, ClaimRef, page_of

DRIVERS: Final = ("gpu.dra.intel.com", "gpu.resource.intel.com")
"""Names under which classic clusters know us: of the first release of Intel's driver, and of later ones."""

DELAYED: Final = "WaitForFirstConsumer"
"""The mode of allocation in which a claim waits for its first pod; the default."""

CLASSIC_SOURCES: Final = frozenset(
    {"resource.k8s.io/v1alpha1", "resource.k8s.io/v1alpha2", "resource.k8s.io/v1alpha3"}
)
"""What entries of classic claims name as their source; that of 1.31 may also be of a structured one."""


def finalizer_of(driver: str) -> str:
    """What keeps a claim from vanishing while it has something of ours, as classic drivers name it."""
    return f"{driver}/deletion-protection"


class Reference(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where parameters are: of a claim (in its namespace) or a class."""

    api_group: str = ""
    kind: str
    name: str
    namespace: str = ""


class Consumer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Who may use a claim."""

    resource: str
    name: str
    uid: str


class ClassicClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A claim as it is at one ``resource_version``.

    ``driver`` is who allocated it, empty without an allocation; ``handle`` is what that driver wrote into it.
    ``made_for`` is the UID of the pod whose template it was made from; empty if it wasn't. ``asked`` is what a
    claim of 1.31 says of driver and devices itself, instead of its class and parameters.
    """

    uid: str
    ref: ClaimRef
    resource_version: str
    made_for: str
    class_name: str
    parameters: Reference | None
    immediate: bool
    deleting: bool
    finalizers: tuple[str, ...]
    driver: str
    allocated: bool
    handle: str
    consumers: tuple[Consumer, ...]
    deallocation_requested: bool
    asked: Asked | None = None

    @property
    def fence(self) -> str:
        """The driver of ours whose finalizer it bears, empty without one.

        It is set before anything is decided about the claim and taken away to give a decision up: as writes name
        the version they were made from, none that was under way then gets through.
        """
        return next((driver for driver in DRIVERS if finalizer_of(driver) in self.finalizers), "")

    @property
    def releasing(self) -> bool:
        """Whether its allocation is to be taken back: nobody may use it, and somebody wants it gone."""
        return self.allocated and not self.consumers and (self.deleting or self.deallocation_requested)

    @property
    def open(self) -> bool:
        """Whether a decision about it may stand in a node's ledger although nothing is allocated yet."""
        return not self.allocated and not self.deleting and bool(self.fence)

    def projected(self) -> Claim:
        """What it means for nodes: nothing while it is not allocated, and once it is to be taken back.

        A handle of ours that can't be read is one of a newer release, or somebody edited it: then nothing is known
        about the claim, which is an error rather than no devices.
        """
        if self.driver not in DRIVERS or not self.allocated or self.releasing:
            return Claim(uid=self.uid, ref=self.ref, open=self.open)
        return Claim(uid=self.uid, ref=self.ref, results=results_of(self.handle))


class _Wire(msgspec.Struct, rename="camel"):
    """Part of an object as the API server sends it; null is as good as absent."""


class _Owner(_Wire):
    kind: str = ""
    uid: str = ""
    controller: bool | None = None


class _Metadata(_Wire):
    name: str
    namespace: str
    uid: str
    resource_version: str
    deletion_timestamp: str | None = None
    finalizers: list[str] | None = None
    owner_references: list[_Owner] | None = None


class _Spec(_Wire):
    resource_class_name: str = ""
    parameters_ref: Reference | None = None
    allocation_mode: str = DELAYED


class _Handle(_Wire):
    driver_name: str = ""
    data: str = ""


class _Allocation(_Wire):
    resource_handle: str = ""
    resource_handles: list[_Handle] | None = None


class _Status(_Wire):
    driver_name: str = ""
    allocation: _Allocation | None = None
    reserved_for: list[Consumer] | None = None
    deallocation_requested: bool | None = None


class _Claim(_Wire):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status | None = None


_read = msgspec.json.Decoder(_Claim).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicReader:
    """Reads claims of both classic versions, and what they mean for nodes."""

    def negotiated(self, raw: bytes) -> ClassicClaim:
        """One claim with all that is negotiated about. Raises ``msgspec.DecodeError``, which names the field."""
        wire = _read(raw)
        meta, spec, status = wire.metadata, wire.spec, wire.status or _Status()
        allocation = status.allocation
        return ClassicClaim(
            uid=meta.uid,
            ref=ClaimRef(meta.namespace, meta.name),
            resource_version=meta.resource_version,
            made_for=next((one.uid for one in meta.owner_references or () if one.controller), ""),
            class_name=spec.resource_class_name,
            parameters=spec.parameters_ref,
            immediate=spec.allocation_mode == "Immediate",
            deleting=meta.deletion_timestamp is not None,
            finalizers=tuple(meta.finalizers or ()),
            driver=status.driver_name,
            allocated=allocation is not None,
            handle=_handle_in(allocation, status.driver_name) if allocation else "",
            consumers=tuple(status.reserved_for or ()),
            deallocation_requested=bool(status.deallocation_requested),
        )

    def claim(self, raw: bytes) -> Claim:
        """One claim as nodes see it. Raises ``msgspec.DecodeError``."""
        return projected(self.negotiated(raw))

    def page(self, raw: bytes) -> ClaimPage:
        """A list of claims, without those that have nothing of ours. Raises ``msgspec.DecodeError``."""
        return page_of(raw, self.claim)


def projected(claim: ClassicClaim) -> Claim:
    """``claim.projected()``, with the error that readers of claims have. Raises ``msgspec.ValidationError``."""
    try:
        return claim.projected()
    except HandleError as error:
        raise msgspec.ValidationError(f"status.allocation.resourceHandle: {error}") from error


def _handle_in(allocation: _Allocation, driver: str) -> str:
    for handle in allocation.resource_handles or ():
        if handle.driver_name in ("", driver):
            return handle.data
    return allocation.resource_handle
