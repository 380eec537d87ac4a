"""The kubelet's DRAResourceHealth service. Its versions are the same on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import grpc

from plugin.health import DeviceHealth
from plugin.health_feed import TIMEOUT_SECONDS, HealthFeed
from plugin.pb.health.v1alpha1 import health_pb2 as pb
from plugin.rpc import stream


def handler(version: str, feed: HealthFeed) -> grpc.GenericRpcHandler:
    """The service in ``version``, for a gRPC server."""

    def watch(context: grpc.ServicerContext) -> Iterator[pb.NodeWatchResourcesResponse]:
        for devices, updated in feed.lists(context):
            yield listed(devices, updated)

    return grpc.method_handlers_generic_handler(
        f"{version}.DRAResourceHealth",
        {"NodeWatchResources": stream(pb.NodeWatchResourcesRequest, lambda _, context: watch(context))},
    )


def listed(devices: Iterable[DeviceHealth], updated: int) -> pb.NodeWatchResourcesResponse:
    """The message for a list whose status was written at ``updated``, in seconds since 1970."""
    return pb.NodeWatchResourcesResponse(devices=[_device(device, updated) for device in devices])


def _device(device: DeviceHealth, updated: int) -> pb.DeviceHealth:
    return pb.DeviceHealth(
        device=pb.DeviceIdentifier(pool_name=device.pool, device_name=device.device),
        health=pb.HealthStatus.Name(device.health.value),
        last_updated_time=updated,
        health_check_timeout_seconds=TIMEOUT_SECONDS,
        message=device.message,
    )
