"""The kubelet's services for claims before 1.31: they know devices by their CDI names only.

What a claim was given stands in the node's status, as for newer kubelets, so resource handles are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from plugin.claims import Answer, CallFailed, NotPrepared, Prepared
from plugin.node_calls import NodeCalls
from plugin.pb.dra.v1alpha1 import api_pb2 as single
from plugin.pb.dra.v1alpha3 import api_pb2 as several
from plugin.rpc import unary

_LONGEST_NAME = 253
"""Characters of a Kubernetes name; what is longer is none, and has no place in an error."""


def single_claim_handler(version: str, calls: NodeCalls) -> grpc.GenericRpcHandler:
    """The service of 1.26 and 1.27, for one claim a call. Failing is an error of the call."""

    def prepare(
        request: single.NodePrepareResourceRequest, context: grpc.ServicerContext
    ) -> single.NodePrepareResourceResponse:
        answer = calls.prepare((request.claim_uid,), version, context)[request.claim_uid]
        if isinstance(answer, NotPrepared):
            raise CallFailed(_about(request.namespace, request.claim_name, answer.why))
        return single.NodePrepareResourceResponse(cdi_devices=_cdi_ids(answer))

    def unprepare(
        request: single.NodeUnprepareResourceRequest, context: grpc.ServicerContext
    ) -> single.NodeUnprepareResourceResponse:
        problem = calls.unprepare((request.claim_uid,), version, context)[request.claim_uid]
        if problem:
            raise CallFailed(_about(request.namespace, request.claim_name, problem))
        return single.NodeUnprepareResourceResponse()

    return grpc.method_handlers_generic_handler(
        f"{version}.Node",
        {
            "NodePrepareResource": unary(single.NodePrepareResourceRequest, prepare),
            "NodeUnprepareResource": unary(single.NodeUnprepareResourceRequest, unprepare),
        },
    )


def several_claims_handler(calls: NodeCalls) -> grpc.GenericRpcHandler:
    """The service of 1.28 to 1.30. 1.31 calls the same path and expects other messages."""
    version = "v1alpha3"

    def prepare(
        request: several.NodePrepareResourcesRequest, context: grpc.ServicerContext
    ) -> several.NodePrepareResourcesResponse:
        return prepared(calls.prepare((claim.uid for claim in request.claims), version, context))

    def unprepare(
        request: several.NodeUnprepareResourcesRequest, context: grpc.ServicerContext
    ) -> several.NodeUnprepareResourcesResponse:
        problems = calls.unprepare((claim.uid for claim in request.claims), version, context)
        return several.NodeUnprepareResourcesResponse(
            claims={uid: several.NodeUnprepareResourceResponse(error=why) for uid, why in problems.items()}
        )

    return grpc.method_handlers_generic_handler(
        f"{version}.Node",
        {
            "NodePrepareResources": unary(several.NodePrepareResourcesRequest, prepare),
            "NodeUnprepareResources": unary(several.NodeUnprepareResourcesRequest, unprepare),
        },
    )


def prepared(answers: Mapping[str, Answer]) -> several.NodePrepareResourcesResponse:
    """The message for these answers."""
    return several.NodePrepareResourcesResponse(claims={uid: _claim(answer) for uid, answer in answers.items()})


def _claim(answer: Answer) -> several.NodePrepareResourceResponse:
    if isinstance(answer, Prepared):
        return several.NodePrepareResourceResponse(cdi_devices=_cdi_ids(answer))
    return several.NodePrepareResourceResponse(error=answer.why)


def _cdi_ids(answer: Prepared) -> list[str]:
    return [device.cdi_id for device in answer.devices]


def _about(namespace: str, name: str, why: str) -> str:
    return f"claim {namespace[:_LONGEST_NAME]}/{name[:_LONGEST_NAME]}: {why}"
