"""ResourceClaims as far as they concern our driver, read from any structured version of resource.k8s.io.

Where v1, v1beta2, v1beta1 and v1alpha3 differ they do so in ``spec``; allocations have the same fields in all of
them (1.31 alone keeps ``adminAccess`` in the spec only). Fields we don't use are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

DRIVER_NAME: Final = "gpu.intel.com"
"""Our driver's name for structured parameters: results and configuration of other drivers are not ours."""


class ClaimRef(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a claim is found. Another claim may be there later: only the UID tells them apart."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Result(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One device of ours in an allocation. ``position`` is its place in ``status.allocation.devices.results``.

    ``request`` is ``request/subrequest`` where a list of alternatives was asked for.
    """

    position: int
    request: str
    pool: str
    device: str
    share_id: str = ""
    admin_access: bool = False
    consumed: tuple[tuple[str, str], ...] = ()


class OpaqueConfig(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Configuration for our driver, of the claim or copied from its class. No requests: it is for all of them."""

    position: int
    from_class: bool
    requests: tuple[str, ...]
    parameters: bytes


class Claim(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A claim: ``results`` and ``configs`` are those of our driver, empty without an allocation of ours.

    ``open``: our controller is about to allocate it itself (classic DRA), so that the entry of a node is no
    leftover although nothing is allocated yet.
    """

    uid: str
    ref: ClaimRef
    results: tuple[Result, ...] = ()
    configs: tuple[OpaqueConfig, ...] = ()
    open: bool = False

    def on(self, node: str) -> tuple[Result, ...]:
        """Its devices on one node: our pools are named after their nodes."""
        return tuple(result for result in self.results if result.pool == node)

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(result.pool for result in self.results)


class _Wire(msgspec.Struct, rename="camel"):
    """Part of an object as the API server sends it; null is as good as absent."""


class _Metadata(_Wire):
    name: str
    namespace: str
    uid: str


class _Opaque(_Wire):
    driver: str
    parameters: msgspec.Raw = msgspec.Raw(b"null")


class _Config(_Wire):
    source: str = ""
    requests: list[str] | None = None
    opaque: _Opaque | None = None


class _Result(_Wire):
    request: str
    driver: str
    pool: str
    device: str
    admin_access: bool | None = None
    share_id: str | None = msgspec.field(default=None, name="shareID")
    consumed_capacity: dict[str, str] | None = None


class _AllocatedDevices(_Wire):
    results: list[_Result] | None = None
    config: list[_Config] | None = None


class _Allocation(_Wire):
    devices: _AllocatedDevices = msgspec.field(default_factory=_AllocatedDevices)
    controller: str = ""


class _Status(_Wire):
    allocation: _Allocation | None = None


class _Claim(_Wire):
    metadata: _Metadata
    status: _Status | None = None


class _AlphaRequest(_Wire):
    name: str
    admin_access: bool | None = None


class _AlphaDevices(_Wire):
    requests: list[_AlphaRequest] | None = None


class _AlphaSpec(_Wire):
    devices: _AlphaDevices = msgspec.field(default_factory=_AlphaDevices)


class _AlphaClaim(_Claim):
    spec: _AlphaSpec = msgspec.field(default_factory=_AlphaSpec)


class _ListMetadata(_Wire):
    continue_: str = msgspec.field(default="", name="continue")


class _List(_Wire):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPage:
    """One page of a list of claims, and how to ask for the next (empty: it was the last)."""

    claims: tuple[Claim, ...]
    continue_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimReader:
    """Reads claims of one version. ``admin_access_in_spec`` is for 1.31, whose results do not have it."""

    driver: str = DRIVER_NAME
    admin_access_in_spec: bool = False

    def claim(self, raw: bytes) -> Claim:
        """One claim. Raises ``msgspec.DecodeError``, which names the field, when it is none."""
        wire = (_read_alpha if self.admin_access_in_spec else _read)(raw)
        ref = ClaimRef(wire.metadata.namespace, wire.metadata.name)
        allocation = wire.status.allocation if wire.status else None
        if allocation is None or allocation.controller:  # 1.31: allocated by a classic driver's controller
            return Claim(uid=wire.metadata.uid, ref=ref)
        admin = _admin_requests(wire)
        results = tuple(
            _result(position, result, admin)
            for position, result in enumerate(allocation.devices.results or ())
            if result.driver == self.driver
        )
        if not results:
            return Claim(uid=wire.metadata.uid, ref=ref)
        configs = tuple(
            _config(position, config, config.opaque)
            for position, config in enumerate(allocation.devices.config or ())
            if config.opaque is not None and config.opaque.driver == self.driver
        )
        return Claim(uid=wire.metadata.uid, ref=ref, results=results, configs=configs)

    def page(self, raw: bytes) -> ClaimPage:
        """A list of claims, without those that have nothing of ours. Raises ``msgspec.DecodeError``."""
        return page_of(raw, self.claim)


_read = msgspec.json.Decoder(_Claim).decode
_read_alpha = msgspec.json.Decoder(_AlphaClaim).decode
_read_list = msgspec.json.Decoder(_List).decode


def page_of(raw: bytes, read: Callable[[bytes], Claim]) -> ClaimPage:
    """A list of claims, each read by ``read``, without those that have nothing of ours. Raises
    ``msgspec.DecodeError``.
    """
    wire = _read_list(raw)
    claims = (read(bytes(item)) for item in wire.items or ())
    return ClaimPage(
        claims=tuple(claim for claim in claims if claim.results), continue_token=wire.metadata.continue_
    )


def _admin_requests(wire: _Claim) -> frozenset[str]:
    if not isinstance(wire, _AlphaClaim):
        return frozenset()
    return frozenset(request.name for request in wire.spec.devices.requests or () if request.admin_access)


def _result(position: int, wire: _Result, admin: frozenset[str]) -> Result:
    return Result(
        position=position,
        request=wire.request,
        pool=wire.pool,
        device=wire.device,
        share_id=wire.share_id or "",
        admin_access=bool(wire.admin_access) or wire.request in admin,
        consumed=tuple(sorted((wire.consumed_capacity or {}).items())),
    )


def _config(position: int, wire: _Config, opaque: _Opaque) -> OpaqueConfig:
    return OpaqueConfig(
        position=position,
        from_class=wire.source == "FromClass",
        requests=tuple(wire.requests or ()),
        parameters=bytes(opaque.parameters),
    )
