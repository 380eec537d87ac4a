"""Parameter objects of classic DRA: what ResourceClasses and ResourceClaims refer to with ``parametersRef``.

Intel's driver had two generations of them, and objects of both are served as they were. Its first release,
v0.1.0-beta for Kubernetes 1.26, called itself and its group ``gpu.dra.intel.com``, with version ``v1alpha``; those
from v0.2.0 to gpu-v0.5.1, for 1.27 and later, ``gpu.resource.intel.com`` with ``v1alpha2``. Both come out as
ClassParameters and ClaimParameters, so that whoever allocates knows one kind of claim.

Fields, defaults and bounds are those of that driver's definitions and documentation. Three things it left open
work here: ``type`` may be absent (then it is ``gpu``), ``any`` is served in both generations, and class selectors,
which that driver kept without ever looking at them, select. API servers get the same bounds from the definitions
in deploy/crd, which ``hack/gen-crd`` makes from the types here; the text below a field is what ``kubectl explain``
says of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Annotated, Final, Generic, Literal, TypeVar, overload
from urllib.parse import quote

import msgspec

from state.mismatches import Problem, mismatches, shown

MIB: Final = 2**20
LARGEST_MEMORY: Final = 1024 * 1024
"""MiB, 1 TiB."""


class DeviceType(Enum):
    """What a claim asks for, and what a class has: whole GPUs, SR-IOV virtual functions (VFs), or either."""

    GPU = "gpu"
    VF = "vf"
    ANY = "any"


class _Strict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What the parts of parameter objects have in common."""


class DeviceSelector(_Strict, frozen=True, kw_only=True):
    """Devices that a class has: those of this type on GPUs of this name."""

    type: DeviceType
    """Devices of the class: gpu and any for GPUs with their virtual functions (VFs), vf for VFs alone."""
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9*]", max_length=63)]
    """GPUs of the class: by model, family, PCI device id (0x56c0) or name (0000-b3-00-0-0x56c0), in any case; *
    stands for any text."""


ANY_DEVICE: Final = (DeviceSelector(type=DeviceType.ANY, name="*"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassParameters:
    """What a ResourceClass says of all its claims.

    ``selectors``: the class has the devices that any of them selects. ``shared``: a GPU may serve several claims
    of such classes at a time, up to its memory and 1000 millicores; else a device serves one claim. ``monitor``: a
    claim gets to see all GPUs of its node, whoever uses them.
    """

    selectors: tuple[DeviceSelector, ...] = ANY_DEVICE
    shared: bool = False
    monitor: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimParameters:
    """What a ResourceClaim asks for: ``count`` devices of one node, each with all of what follows.

    ``memory`` is in bytes and ``millicores`` in thousandths of a GPU, both per device and at least; None: any
    amount (of a shared GPU 1 millicore is charged then). ``shareable``: several pods may use the claim at a time.
    """

    count: int = 1
    memory: int | None = None
    millicores: int | None = None
    type: DeviceType = DeviceType.GPU
    shareable: bool = False


CLAIM_DEFAULTS: Final[Mapping[str, ClaimParameters]] = MappingProxyType(
    {
        "gpu.dra.intel.com": ClaimParameters(shareable=True),
        "gpu.resource.intel.com": ClaimParameters(),
    }
)
"""What a claim without ``parametersRef`` asks for, by the driver's name.

The first release let pods share any claim; only later could a claim say whether it is ``shareable``. A class
without ``parametersRef`` has ``ClassParameters()`` in both.
"""


class ParametersError(Exception):
    """Parameters that can't be used. ``where`` is the object (``GpuClaimParameters default/big``) or reference."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        super().__init__(where, problems)
        self.where = where
        self.problems = tuple(problems)

    def __str__(self) -> str:
        told = (str(problem) if problem.path else problem.why for problem in self.problems)
        return f"{self.where}: {'; '.join(told)}"


class FirstClaimSpec(_Strict, frozen=True, kw_only=True):
    """Parameters of ResourceClaims for Intel GPUs, as the driver gpu.dra.intel.com reads them."""

    count: Annotated[int, msgspec.Meta(ge=1, le=8)]
    """How many devices, all of one node."""
    memory: Annotated[int, msgspec.Meta(ge=8, le=LARGEST_MEMORY)] | None = None
    """Local memory of each device in MiB, at least. For a VF it decides on its profile."""
    type: DeviceType = DeviceType.GPU
    """What the devices are: gpu (default) for whole GPUs, vf for virtual functions, any for whichever is there.
    VFs are made when they are needed."""


class LaterClaimSpec(_Strict, frozen=True, kw_only=True):
    """Parameters of ResourceClaims for Intel GPUs, as the driver gpu.resource.intel.com reads them."""

    count: Annotated[int, msgspec.Meta(ge=1, le=640)]
    """How many devices, all of one node."""
    memory: Annotated[int, msgspec.Meta(ge=8, le=LARGEST_MEMORY)] | None = None
    """Local memory of each device in MiB, at least. For a VF it decides on its profile and is enforced; on a
    shared GPU it is only counted, so that the claims together do not ask for more than there is."""
    millicores: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    """Computing time of each device in thousandths of a GPU, at least: with type gpu of a class that is shared
    (counted, not enforced; 1 if not given), or with type vf of a class that is not."""
    type: DeviceType = DeviceType.GPU
    """What the devices are: gpu (default) for whole GPUs, or shares of them if the class is shared; vf for virtual
    functions; any for whichever is there. VFs are made when they are needed."""
    shareable: bool = False
    """Whether several pods (at most 32) may use the claim at a time. Default: false."""


class FirstClassSpec(_Strict, frozen=True, kw_only=True):
    """Parameters of ResourceClasses for Intel GPUs, as the driver gpu.dra.intel.com reads them."""

    device_selector: tuple[DeviceSelector, ...] = ()
    """Devices that the class has: those that any of these selects; all if there are none."""


class LaterClassSpec(_Strict, frozen=True, kw_only=True):
    """Parameters of ResourceClasses for Intel GPUs, as the driver gpu.resource.intel.com reads them."""

    device_selector: tuple[DeviceSelector, ...] = ()
    """Devices that the class has: those that any of these selects; all if there are none."""
    monitor: bool = False
    """Whether a claim gets to see all GPUs of its node, whoever uses them. Default: false."""
    shared: bool
    """Whether a GPU may serve several claims of such classes at a time, as far as its memory and its 1000
    millicores go. If not, it serves one."""


SpecT = TypeVar("SpecT", bound=msgspec.Struct)
ResultT_co = TypeVar("ResultT_co", ClaimParameters, ClassParameters, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterKind(Generic[ResultT_co]):
    """One kind of parameter object: where API servers have it, and how it is read.

    ``spec`` is the type of its spec, ``decode`` takes a whole object in JSON and raises ParametersError.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    spec: type[msgspec.Struct]
    decode: Callable[[bytes], ResultT_co]

    @property
    def api_version(self) -> str:
        """Group and version, as manifests name them."""
        return f"{self.group}/{self.version}"

    @property
    def collection(self) -> str:
        """URL path of all objects of the kind, in all namespaces."""
        return f"/apis/{self.api_version}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """URL path of one object; ``namespace`` does not matter to kinds without namespaces."""
        within = f"namespaces/{quote(namespace, safe='')}/" if self.namespaced else ""
        return f"/apis/{self.api_version}/{within}{self.plural}/{quote(name, safe='')}"


@overload
def find_kind(api_group: str, kind: str, *, of_class: Literal[False]) -> ParameterKind[ClaimParameters]: ...


@overload
def find_kind(api_group: str, kind: str, *, of_class: Literal[True]) -> ParameterKind[ClassParameters]: ...


def find_kind(
    api_group: str, kind: str, *, of_class: bool
) -> ParameterKind[ClaimParameters] | ParameterKind[ClassParameters]:
    """The kind that a ``parametersRef`` names. Raises ParametersError, with those that a class or claim may name.

    ``apiGroup`` is a group by its definition (resource.k8s.io); Intel's driver demanded group and version there.
    Both are understood.
    """
    group, slash, version = api_group.partition("/")
    known = CLASS_PARAMETERS if of_class else CLAIM_PARAMETERS
    found = known.get((group, kind))
    if found is not None and (not slash or version == found.version):
        return found
    if kind in {one.kind for one in known.values()}:
        groups = tuple(one.api_version for one in known.values() if one.kind == kind)
        raise ParametersError("parametersRef", [_not_allowed("apiGroup", api_group, groups)])
    kinds = tuple(one.kind for one in known.values() if one.group == group) or tuple(
        f"{one.kind} of {one.api_version}" for one in known.values()
    )
    raise ParametersError("parametersRef", [_not_allowed("kind", kind, kinds)])


def checked(claim: ClaimParameters, of_class: ClassParameters) -> None:
    """Nothing, or ParametersError for a claim that its class can never serve.

    Millicores are for shares of a GPU and for VFs: legal with type gpu of a shared class and with type vf of one
    that is not. A monitor looks at whole GPUs, so its type is gpu. A class of VFs alone has nothing of type gpu.
    """
    problem = _unserved(claim, of_class)
    if problem is not None:
        raise ParametersError("the claim's parameters do not go with its class", [problem])


def _unserved(claim: ClaimParameters, of_class: ClassParameters) -> Problem | None:
    asked = f"is {claim.type.value}"
    if claim.type is DeviceType.GPU and all(one.type is DeviceType.VF for one in of_class.selectors):
        return Problem(path="spec.type", why=f"{asked}, but the class has only VFs", allowed=("vf", "any"))
    if of_class.monitor:
        if claim.type is DeviceType.GPU:
            return None
        return Problem(path="spec.type", why=f"{asked}, but the class is for monitors", allowed=("gpu",))
    fitting = DeviceType.GPU if of_class.shared else DeviceType.VF
    if claim.millicores is None or claim.type is fitting:
        return None
    of_which = "shared" if of_class.shared else "not shared"
    why = f"{claim.millicores} can't be had with type {claim.type.value} of a class that is {of_which}"
    return Problem(path="spec.millicores", why=why, allowed=("type gpu of a shared class", "type vf of another"))


def _not_allowed(path: str, value: str, allowed: tuple[str, ...]) -> Problem:
    return Problem(path=path, why=f"{shown(value)} is not allowed", allowed=allowed)


def _spec(data: bytes, kind: str, expected: type[SpecT]) -> SpecT:
    """The spec of the object of ``kind`` in ``data``. Raises ParametersError."""
    try:
        whole: object = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:  # not JSON or not UTF-8; or nested without end
        raise ParametersError(kind, [Problem(path="", why=f"is no JSON: {error}")]) from error
    raw = whole.get("spec", {}) if isinstance(whole, dict) else whole
    try:
        return msgspec.convert(raw, expected)
    except msgspec.ValidationError as error:
        found = [_within_spec(problem) for problem in mismatches(raw, expected)]
        raise ParametersError(f"{kind} {_name(whole)}", found or [Problem(path="spec", why=str(error))]) from error


def _within_spec(problem: Problem) -> Problem:
    path = f"spec.{problem.path}" if problem.path else "spec"
    return Problem(path=path, why=problem.why, allowed=problem.allowed)


def _name(whole: object) -> str:
    match whole:
        case {"metadata": {"namespace": str(namespace), "name": str(name)}}:
            return f"{namespace}/{name}"
        case {"metadata": {"name": str(name)}}:
            return name
        case _:
            return "without a name"


def _bytes(mebibytes: int | None) -> int | None:
    return None if mebibytes is None else mebibytes * MIB


def _first_claim(data: bytes) -> ClaimParameters:
    spec = _spec(data, "GpuClaimParameters", FirstClaimSpec)
    return ClaimParameters(count=spec.count, memory=_bytes(spec.memory), type=spec.type, shareable=True)


def _later_claim(data: bytes) -> ClaimParameters:
    spec = _spec(data, "GpuClaimParameters", LaterClaimSpec)
    return ClaimParameters(
        count=spec.count,
        memory=_bytes(spec.memory),
        millicores=spec.millicores,
        type=spec.type,
        shareable=spec.shareable,
    )


def _first_class(data: bytes) -> ClassParameters:
    spec = _spec(data, "DeviceClassParameters", FirstClassSpec)
    return ClassParameters(selectors=spec.device_selector or ANY_DEVICE)


def _later_class(data: bytes) -> ClassParameters:
    spec = _spec(data, "GpuClassParameters", LaterClassSpec)
    return ClassParameters(selectors=spec.device_selector or ANY_DEVICE, shared=spec.shared, monitor=spec.monitor)


_FIRST_CLAIM: Final = ParameterKind(
    group="gpu.dra.intel.com",
    version="v1alpha",
    kind="GpuClaimParameters",
    plural="gpuclaimparameters",
    namespaced=True,
    spec=FirstClaimSpec,
    decode=_first_claim,
)
_LATER_CLAIM: Final = ParameterKind(
    group="gpu.resource.intel.com",
    version="v1alpha2",
    kind="GpuClaimParameters",
    plural="gpuclaimparameters",
    namespaced=True,
    spec=LaterClaimSpec,
    decode=_later_claim,
)
_FIRST_CLASS: Final = ParameterKind(
    group="gpu.dra.intel.com",
    version="v1alpha",
    kind="DeviceClassParameters",
    plural="deviceclassparameters",
    namespaced=False,
    spec=FirstClassSpec,
    decode=_first_class,
)
_LATER_CLASS: Final = ParameterKind(
    group="gpu.resource.intel.com",
    version="v1alpha2",
    kind="GpuClassParameters",
    plural="gpuclassparameters",
    namespaced=False,
    spec=LaterClassSpec,
    decode=_later_class,
)

CLAIM_PARAMETERS: Final[Mapping[tuple[str, str], ParameterKind[ClaimParameters]]] = MappingProxyType(
    {(one.group, one.kind): one for one in (_FIRST_CLAIM, _LATER_CLAIM)}
)
"""Parameters that claims may refer to, by group and kind."""
CLASS_PARAMETERS: Final[Mapping[tuple[str, str], ParameterKind[ClassParameters]]] = MappingProxyType(
    {(one.group, one.kind): one for one in (_FIRST_CLASS, _LATER_CLASS)}
)
"""Parameters that classes may refer to, by group and kind."""
