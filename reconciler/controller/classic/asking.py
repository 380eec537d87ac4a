"""What claims ask for: their parameters and those of their classes, read when they are needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import NotFound
from state.classic.claims import ClassicClaim, Reference
from state.classic.classes import ResourceClass
from state.classic.device_requests import Asked, claim_parameters, class_parameters
from state.classic.parameters import (
    CLAIM_DEFAULTS,
    ClaimParameters,
    ClassParameters,
    ParameterKind,
    ParametersError,
    checked,
    find_kind,
)
from state.classic.wishes import Wish
from state.mismatches import Problem

_FRESH: Final = 2.0
"""Seconds for which parameters that were read are used again: pods of one template come together."""
_MOST_KEPT: Final = 4096

_Parameters = TypeVar("_Parameters", ClaimParameters, ClassParameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    value: ClaimParameters | ClassParameters
    until: float


class Asking:
    """Reads parameter objects. Thread-safe."""

    def __init__(self, client: KubeClient, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._read: dict[str, _Read] = {}

    def wish(self, claim: ClassicClaim, of_class: ResourceClass) -> Wish:
        """What ``claim`` asks for. Raises ParametersError for what can't be had by anybody, and ApiError."""
        if claim.asked is not None:
            return _embedded(claim, claim.asked, of_class)
        said = ClassParameters()
        if of_class.parameters is not None:
            kind = find_kind(of_class.parameters.api_group, of_class.parameters.kind, of_class=True)
            said = self._get(kind, of_class.parameters.namespace, of_class.parameters)
        parameters = CLAIM_DEFAULTS[of_class.driver]
        if claim.parameters is not None:
            of_claims = find_kind(claim.parameters.api_group, claim.parameters.kind, of_class=False)
            parameters = self._get(of_claims, claim.ref.namespace, claim.parameters)
        checked(parameters, said)
        return Wish(uid=claim.uid, ref=claim.ref, claim=parameters, of_class=said)

    def _get(self, kind: ParameterKind[_Parameters], namespace: str, reference: Reference) -> _Parameters:
        path, now = kind.path(namespace, reference.name), self._clock()
        with self._lock:
            known = self._read.get(path)
        if known is not None and now < known.until:
            return known.value  # type: ignore[return-value]  # each path has one kind
        try:
            value = kind.decode(self._client.get(path))
        except NotFound as error:
            where = " ".join((kind.kind, f"{namespace}/{reference.name}" if kind.namespaced else reference.name))
            why = f"{kind.api_version} is not installed" if error.resource_absent else "there is no such object"
            raise ParametersError(where, [Problem(path="", why=why)]) from error
        with self._lock:
            if len(self._read) >= _MOST_KEPT:
                self._read.clear()
            self._read[path] = _Read(value=value, until=now + _FRESH)
        return value


def _embedded(claim: ClassicClaim, asked: Asked, of_class: ResourceClass) -> Wish:
    """1.31: claim and class have their parameters in themselves. Raises ParametersError."""
    ours = tuple(raw for driver, raw in of_class.embedded if driver == asked.driver)
    said = class_parameters(ours, selected=of_class.selected, where=f"DeviceClass {of_class.name}")
    parameters = claim_parameters(asked, f"ResourceClaim {claim.ref}")
    checked(parameters, said)
    return Wish(uid=claim.uid, ref=claim.ref, claim=parameters, of_class=said)
