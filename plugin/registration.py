"""Introducing the plugin to the kubelet, which has found its registration socket."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import grpc

from plugin.pb.pluginregistration import registration_pb2 as pb
from plugin.rpc import unary

SERVICE = "pluginregistration.Registration"
PLUGIN_TYPE = "DRAPlugin"

_log = logging.getLogger(__name__)


class Registration:
    """One driver at the kubelet. ``told`` is called with whether the kubelet has it registered.

    Both answers are given at once, from memory: the kubelet waits a second for the first.
    """

    def __init__(
        self, driver: str, endpoint: Path, versions: tuple[str, ...], told: Callable[[bool], None]
    ) -> None:
        self._driver = driver
        self._endpoint = endpoint
        self._versions = versions
        self._told = told
        self._complaint = ""

    def handler(self) -> grpc.GenericRpcHandler:
        """The service, for a gRPC server."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "GetInfo": unary(pb.InfoRequest, self._get_info),
                "NotifyRegistrationStatus": unary(pb.RegistrationStatus, self._notify),
            },
        )

    def _get_info(self, request: pb.InfoRequest, context: grpc.ServicerContext) -> pb.PluginInfo:
        return pb.PluginInfo(
            type=PLUGIN_TYPE,
            name=self._driver,
            endpoint=str(self._endpoint),
            supported_versions=self._versions,
        )

    def _notify(
        self, request: pb.RegistrationStatus, context: grpc.ServicerContext
    ) -> pb.RegistrationStatusResponse:
        self._told(request.plugin_registered)
        if request.plugin_registered:
            self._complaint = ""
            _log.info("registered with the kubelet", extra={"driver": self._driver})
        elif request.error != self._complaint:
            # The kubelet tries again by itself, in longer and longer intervals.
            self._complaint = request.error
            _log.error("the kubelet refuses to register us: %s", request.error, extra={"driver": self._driver})
        return pb.RegistrationStatusResponse()
