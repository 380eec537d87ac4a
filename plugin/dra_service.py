"""The kubelet's service for claims since 1.31. Its versions differ on the wire only in the fields named here."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from plugin.claims import Answer, Prepared, PreparedDevice
from plugin.node_calls import NodeCalls
from plugin.pb.dra.v1 import api_pb2 as pb
from plugin.rpc import unary


def handler(service: str, version: str, calls: NodeCalls, *, share_ids: bool) -> grpc.GenericRpcHandler:
    """The service by its full name, for a gRPC server. Only newer versions have ``share_ids``."""

    def prepare(
        request: pb.NodePrepareResourcesRequest, context: grpc.ServicerContext
    ) -> pb.NodePrepareResourcesResponse:
        answers = calls.prepare((claim.uid for claim in request.claims), version, context)
        return prepared(answers, share_ids=share_ids)

    def unprepare(
        request: pb.NodeUnprepareResourcesRequest, context: grpc.ServicerContext
    ) -> pb.NodeUnprepareResourcesResponse:
        return unprepared(calls.unprepare((claim.uid for claim in request.claims), version, context))

    return grpc.method_handlers_generic_handler(
        service,
        {
            "NodePrepareResources": unary(pb.NodePrepareResourcesRequest, prepare),
            "NodeUnprepareResources": unary(pb.NodeUnprepareResourcesRequest, unprepare),
        },
    )


def prepared(answers: Mapping[str, Answer], *, share_ids: bool) -> pb.NodePrepareResourcesResponse:
    """The message for these answers."""
    claims = {uid: _claim(answer, share_ids) for uid, answer in answers.items()}
    return pb.NodePrepareResourcesResponse(claims=claims)


def unprepared(problems: Mapping[str, str]) -> pb.NodeUnprepareResourcesResponse:
    """The message for what went wrong, by claim; empty where nothing did."""
    return pb.NodeUnprepareResourcesResponse(
        claims={uid: pb.NodeUnprepareResourceResponse(error=problem) for uid, problem in problems.items()}
    )


def _claim(answer: Answer, share_ids: bool) -> pb.NodePrepareResourceResponse:
    if isinstance(answer, Prepared):
        return pb.NodePrepareResourceResponse(devices=[_device(device, share_ids) for device in answer.devices])
    return pb.NodePrepareResourceResponse(error=answer.why)


def _device(device: PreparedDevice, share_ids: bool) -> pb.Device:
    return pb.Device(
        request_names=[device.request] if device.request else [],
        pool_name=device.pool,
        device_name=device.device,
        cdi_device_ids=[device.cdi_id],
        share_id=device.share_id if share_ids and device.share_id else None,
    )
