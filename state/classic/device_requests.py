"""What a claim asks of a classic driver in 1.31, where it is written as for structured parameters.

There are neither ResourceClasses nor references to parameters: a claim names the driver in ``spec.controller``,
and parameter objects stand, whole, in the opaque configuration of claims and DeviceClasses (v1alpha3 of
resource.k8s.io).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from state.classic.parameters import (
    CLAIM_DEFAULTS,
    CLAIM_PARAMETERS,
    CLASS_PARAMETERS,
    ClaimParameters,
    ClassParameters,
    ParameterKind,
    ParametersError,
)
from state.mismatches import Problem

MOST_RESULTS: Final = 32
"""Devices that ``status.allocation.devices.results`` may list (resource.k8s.io/v1alpha3)."""

_EXACT: Final = "ExactCount"
_CONFIG: Final = "spec.devices.config"
_CLASS_CONFIG: Final = "spec.config"


class DeviceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a claim. ``selected``: by CEL expressions, which only the scheduler evaluates."""

    name: str
    mode: str
    count: int
    selected: bool
    admin_access: bool


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The devices a claim asks for. ``driver`` is empty where the scheduler is to allocate.

    ``parameters`` are what it has for that driver: the configurations' JSON.
    """

    driver: str
    requests: tuple[DeviceRequest, ...]
    constrained: bool
    parameters: tuple[bytes, ...]


class _Kind(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""


_read_kind = msgspec.json.Decoder(_Kind).decode

_Parameters = TypeVar("_Parameters", ClaimParameters, ClassParameters)


def claim_parameters(asked: Asked, where: str) -> ClaimParameters:
    """What the claim asks for. Raises ParametersError for what no classic driver can tell or give."""
    problems = list(_problems(asked))
    if problems:
        raise ParametersError(where, problems)
    (request,) = asked.requests
    if not asked.parameters:
        return replace(CLAIM_DEFAULTS[asked.driver], count=request.count)
    kinds = {kind.api_version: kind for kind in CLAIM_PARAMETERS.values()}
    found = _decoded(asked.parameters[0], kinds, f"{where}: {_CONFIG}")
    if found.count != request.count:
        why = f"is {request.count}, but the GpuClaimParameters ask for {found.count}"
        raise ParametersError(where, [Problem(path="spec.devices.requests[0].count", why=why)])
    return found


def class_parameters(parameters: tuple[bytes, ...], *, selected: bool, where: str) -> ClassParameters:
    """What the claim's DeviceClass says. Raises ParametersError."""
    if selected:
        why = "are for the scheduler to evaluate, which does not allocate this claim"
        raise ParametersError(where, [Problem(path="spec.selectors", why=why, allowed=("none",))])
    if len(parameters) > 1:
        raise ParametersError(where, [_not_one(_CLASS_CONFIG, len(parameters))])
    if not parameters:
        return ClassParameters()
    kinds = {kind.api_version: kind for kind in CLASS_PARAMETERS.values()}
    return _decoded(parameters[0], kinds, f"{where}: {_CLASS_CONFIG}")


def _problems(asked: Asked) -> list[Problem]:
    path = "spec.devices.requests"
    if len(asked.requests) != 1:
        return [_not_one(path, len(asked.requests))]
    (request,) = asked.requests
    problems = []
    if request.mode != _EXACT:
        problems.append(Problem(path=f"{path}[0].allocationMode", why=f"is {request.mode}", allowed=(_EXACT,)))
    if request.count > MOST_RESULTS:
        allowed = (f"1 to {MOST_RESULTS}",)
        problems.append(Problem(path=f"{path}[0].count", why=f"is {request.count}", allowed=allowed))
    if request.selected:
        why = "are for the scheduler to evaluate, which does not allocate this claim"
        problems.append(Problem(path=f"{path}[0].selectors", why=why, allowed=("none",)))
    if request.admin_access:
        why = "can't be had of this driver, a class for monitors can"
        problems.append(Problem(path=f"{path}[0].adminAccess", why=why, allowed=("false",)))
    if asked.constrained:
        why = "are for the scheduler to keep, which does not allocate this claim"
        problems.append(Problem(path="spec.devices.constraints", why=why, allowed=("none",)))
    if len(asked.parameters) > 1:
        problems.append(_not_one(_CONFIG, len(asked.parameters)))
    return problems


def _not_one(path: str, found: int) -> Problem:
    return Problem(path=path, why=f"{found} are there for this driver", allowed=("one",))


def _decoded(raw: bytes, kinds: dict[str, ParameterKind[_Parameters]], where: str) -> _Parameters:
    try:
        named = _read_kind(raw)
    except msgspec.DecodeError as error:
        raise ParametersError(where, [Problem(path="", why=str(error))]) from error
    kind = kinds.get(named.api_version)
    if kind is None or kind.kind != named.kind:
        allowed = tuple(f"{one.kind} of {one.api_version}" for one in kinds.values())
        why = f"{named.kind or 'no kind'} of {named.api_version or 'no version'} is not allowed"
        raise ParametersError(where, [Problem(path="opaque.parameters", why=why, allowed=allowed)])
    return kind.decode(raw)
