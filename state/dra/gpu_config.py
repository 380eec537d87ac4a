"""``GpuConfig``: the opaque configuration that claims and classes carry for our driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from state.dra.resource_claims import OpaqueConfig
from state.manifest import ClaimRefusal, KernelDriver, RequestConfig
from state.mismatches import Problem, mismatches

LARGEST_PARAMETERS: Final = 10 * 1024
"""Bytes of opaque parameters that a server accepts (resource.k8s.io validation)."""


class GpuConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What a request may ask of its devices beyond being allocated."""

    api_version: Literal["gpu.intel.com/v1alpha1"]
    kind: Literal["GpuConfig"]
    kernel_driver: KernelDriver = KernelDriver.DRM


class ConfigRefusedError(Exception):
    """Configuration that is not understood; ``refusal`` has its path in the claim."""

    def __init__(self, refusal: ClaimRefusal) -> None:
        super().__init__(f"{refusal.path}: {refusal.reason}")
        self.refusal = refusal


def config_of(request: str, configs: Sequence[OpaqueConfig]) -> RequestConfig | None:
    """What is configured for a request, None if nothing is. Raises ConfigRefusedError.

    A claim's own configuration goes before its class's; within each, the later one before the earlier. Of a
    request with alternatives (``request/subrequest``) either name may be meant.
    """
    names = {request, request.partition("/")[0]}
    applying = [config for config in configs if not config.requests or names.intersection(config.requests)]
    decoded = [_decode(config) for config in sorted(applying, key=lambda config: not config.from_class)]
    return RequestConfig(kernel_driver=decoded[-1].kernel_driver) if decoded else None


def _decode(config: OpaqueConfig) -> GpuConfig:
    path = f"status.allocation.devices.config[{config.position}].opaque.parameters"
    if len(config.parameters) > LARGEST_PARAMETERS:
        why = f"has {len(config.parameters)} bytes, more than {LARGEST_PARAMETERS}"
        raise ConfigRefusedError(ClaimRefusal(path=path, reason=why))
    try:
        raw: object = msgspec.json.decode(config.parameters)
    except (ValueError, RecursionError) as error:  # not JSON or not UTF-8; or nested without end
        raise ConfigRefusedError(ClaimRefusal(path=path, reason=f"is no JSON: {error}")) from error
    try:
        return msgspec.convert(raw, GpuConfig)
    except msgspec.ValidationError as error:
        first = next(mismatches(raw, GpuConfig), Problem(path="", why=str(error)))
        allowed = f" (allowed: {', '.join(first.allowed)})" if first.allowed else ""
        refusal = ClaimRefusal(path=f"{path}.{first.path}" if first.path else path, reason=first.why + allowed)
        raise ConfigRefusedError(refusal) from error
