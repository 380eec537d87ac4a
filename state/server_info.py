"""What the node's plugin has to know of the API server: the file ``server.json``.

The node agent finds it out and writes it; the kubelet plugin, which has no access to the cluster, registers
accordingly. It is kept over a boot, as the API server may be away then.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

SERVER_INFO_FORMAT = 1

MESSAGE_FORM = "v1alpha3.NodeService"
STRING_FORM = "v1alpha3.Node.strings"
"""Two forms of the service v1alpha3.Node: as kubelets since 1.31 read its answers, and as those before do."""

# A driver's name becomes a path, and at most 63 characters of it are used in resource.k8s.io. `\Z`, as `$` would
# let a final newline pass.
DriverName = Annotated[
    str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z", max_length=63)
]
ServiceName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.]+\Z", max_length=63)]


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One version of resource.k8s.io, and what a kubelet of that release calls. Newer fields are ignored."""

    format_version: int = SERVER_INFO_FORMAT

    row: str
    """The version of resource.k8s.io that was chosen: v1, v1beta2, …"""

    driver_names: tuple[DriverName, ...]
    """The drivers to register, each with a socket of its own."""

    grpc_services: dict[DriverName, tuple[ServiceName, ...]]
    """By driver, the services to serve: v1.DRAPlugin, v1beta1.DRAPlugin, …, v1alpha1.Node."""


class ServerInfoError(Exception):
    """A file that can't be read as ``ServerInfo``, with the field and the reason."""


def encode_server_info(info: ServerInfo) -> bytes:
    """The file's content. Equal values give equal bytes."""
    return msgspec.json.encode(info, order="sorted") + b"\n"


def decode_server_info(raw: bytes) -> ServerInfo:
    """What ``raw`` says. Raises ServerInfoError, also for a format newer than this release's."""
    try:
        info = msgspec.json.decode(raw, type=ServerInfo)
    except (ValueError, RecursionError) as error:  # no such JSON, not UTF-8; or nested without end
        raise ServerInfoError(str(error)) from error
    if info.format_version != SERVER_INFO_FORMAT:
        raise ServerInfoError(f"formatVersion is {info.format_version} (allowed: {SERVER_INFO_FORMAT})")
    if not info.driver_names:
        raise ServerInfoError("driverNames is empty: at least one driver has to be registered")
    if len(set(info.driver_names)) != len(info.driver_names):
        raise ServerInfoError(f"driverNames names one twice: {', '.join(info.driver_names)}")
    for driver in info.driver_names:
        if not info.grpc_services.get(driver):
            raise ServerInfoError(f"grpcServices.{driver} is missing or empty")
        if {MESSAGE_FORM, STRING_FORM} <= set(info.grpc_services[driver]):
            raise ServerInfoError(
                f"grpcServices.{driver} has both {MESSAGE_FORM} and {STRING_FORM} (allowed: one)"
            )
    return info
