"""gRPC methods from plain functions: requests are decoded here, so that a bad one gets a fitting answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from plugin.claims import BadRequest, CallFailed

Request = TypeVar("Request", bound=Message)


def unary(
    kind: type[Request], answer: Callable[[Request, grpc.ServicerContext], Message]
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A method with one answer.

    A request that is none, or a BadRequest, ends as INVALID_ARGUMENT; CallFailed as FAILED_PRECONDITION.
    """

    def handle(raw: bytes, context: grpc.ServicerContext) -> bytes:
        request = _decoded(kind, raw, context)
        try:
            return answer(request, context).SerializeToString()
        except BadRequest as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except CallFailed as error:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(
    kind: type[Request], answers: Callable[[Request, grpc.ServicerContext], Iterator[Message]]
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A method with a stream of answers."""

    def handle(raw: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for answer in answers(_decoded(kind, raw, context), context):
            yield answer.SerializeToString()

    return grpc.unary_stream_rpc_method_handler(handle)


def _decoded(kind: type[Request], raw: bytes, context: grpc.ServicerContext) -> Request:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no {kind.DESCRIPTOR.full_name}: {error}")
