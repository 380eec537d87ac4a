"""Claims of 1.31's classic mode (gate DRAControlPlaneController), and the DeviceClasses they name.

They have the form of structured parameters. Whose claim it is stands in ``spec.controller``, who allocated it in
``status.allocation.controller``; our handle is kept as opaque configuration of the allocation.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from state.classic.claims import ClassicClaim, ClassicReader, Consumer
from state.classic.classes import ResourceClass
from state.classic.device_requests import Asked, DeviceRequest
from state.classic.node_selectors import NodeSelector
from state.dra.resource_claims import ClaimRef


class _Wire(msgspec.Struct, rename="camel"):
    """Part of an object as the API server sends it; null is as good as absent."""


class _Owner(_Wire):
    uid: str = ""
    controller: bool | None = None


class _Metadata(_Wire):
    name: str
    uid: str
    resource_version: str
    namespace: str = ""
    deletion_timestamp: str | None = None
    finalizers: list[str] | None = None
    owner_references: list[_Owner] | None = None


class _Opaque(_Wire):
    driver: str
    parameters: msgspec.Raw = msgspec.Raw(b"null")


class _Config(_Wire):
    opaque: _Opaque | None = None


class _Request(_Wire):
    name: str
    device_class_name: str = ""
    allocation_mode: str = "ExactCount"
    count: int = 1
    admin_access: bool | None = None
    selectors: list[msgspec.Raw] | None = None


class _Devices(_Wire):
    requests: list[_Request] | None = None
    constraints: list[msgspec.Raw] | None = None
    config: list[_Config] | None = None


class _Spec(_Wire):
    controller: str = ""
    devices: _Devices = msgspec.field(default_factory=_Devices)


class _AllocatedDevices(_Wire):
    config: list[_Config] | None = None


class _Allocation(_Wire):
    controller: str = ""
    devices: _AllocatedDevices = msgspec.field(default_factory=_AllocatedDevices)


class _Status(_Wire):
    allocation: _Allocation | None = None
    reserved_for: list[Consumer] | None = None
    deallocation_requested: bool | None = None


class _Claim(_Wire):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status | None = None


class _ClassMetadata(_Wire):
    name: str


class _ClassSpec(_Wire):
    selectors: list[msgspec.Raw] | None = None
    config: list[_Config] | None = None
    suitable_nodes: NodeSelector | None = None


class _Class(_Wire):
    metadata: _ClassMetadata
    spec: _ClassSpec = msgspec.field(default_factory=_ClassSpec)


_read = msgspec.json.Decoder(_Claim).decode
_read_class = msgspec.json.Decoder(_Class).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicAlphaReader(ClassicReader):
    """Reads claims of v1alpha3. All methods raise ``msgspec.DecodeError``, which names the field."""

    def negotiated(self, raw: bytes) -> ClassicClaim:
        """One claim with all that is negotiated about. All are delayed."""
        wire = _read(raw)
        meta, status = wire.metadata, wire.status or _Status()
        requests, allocation = wire.spec.devices.requests or (), status.allocation
        driver = allocation.controller if allocation else ""
        handles = _of_driver(allocation.devices.config, driver) if allocation else ()
        return ClassicClaim(
            uid=meta.uid,
            ref=ClaimRef(meta.namespace, meta.name),
            resource_version=meta.resource_version,
            made_for=next((one.uid for one in meta.owner_references or () if one.controller), ""),
            class_name=requests[0].device_class_name if requests else "",
            parameters=None,
            immediate=False,
            deleting=meta.deletion_timestamp is not None,
            finalizers=tuple(meta.finalizers or ()),
            driver=driver,
            allocated=allocation is not None,
            handle=handles[0].decode() if handles else "",
            consumers=tuple(status.reserved_for or ()),
            deallocation_requested=bool(status.deallocation_requested),
            asked=_asked(wire.spec),
        )


def read_device_class(raw: bytes) -> ResourceClass:
    """A DeviceClass: it names no driver, its claims do. Raises ``msgspec.DecodeError``, which names the field."""
    wire = _read_class(raw)
    opaque = (config.opaque for config in wire.spec.config or ())
    return ResourceClass(
        name=wire.metadata.name,
        driver="",
        parameters=None,
        suitable_nodes=wire.spec.suitable_nodes,
        selected=bool(wire.spec.selectors),
        embedded=tuple((one.driver, bytes(one.parameters)) for one in opaque if one is not None),
    )


def _asked(spec: _Spec) -> Asked:
    requests = tuple(
        DeviceRequest(
            name=request.name,
            mode=request.allocation_mode,
            count=request.count,
            selected=bool(request.selectors),
            admin_access=bool(request.admin_access),
        )
        for request in spec.devices.requests or ()
    )
    return Asked(
        driver=spec.controller,
        requests=requests,
        constrained=bool(spec.devices.constraints),
        parameters=_of_driver(spec.devices.config, spec.controller),
    )


def _of_driver(configs: list[_Config] | None, driver: str) -> tuple[bytes, ...]:
    opaque = (config.opaque for config in configs or ())
    return tuple(bytes(one.parameters) for one in opaque if one is not None and one.driver == driver)
