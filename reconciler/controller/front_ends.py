"""Which generation of dynamic resource allocation a cluster speaks: a table, of which discovery picks a row.

With structured parameters the scheduler allocates, and we carry out; in classic DRA our controller allocates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Garbled, NotFound
from state.classic.claims import ClassicClaim, ClassicReader
from state.classic.claims_v1alpha3 import ClassicAlphaReader, read_device_class
from state.classic.classes import ResourceClass, read_class
from state.classic.writes import Dialect
from state.dra.deciding import decide
from state.dra.node_view import Decision, NodeView
from state.dra.resource_claims import Claim, ClaimPage, ClaimReader, ClaimRef

GROUP: Final = "resource.k8s.io"


class Reader(Protocol):
    """Reads claims of one version; both raise ``msgspec.DecodeError``."""

    def claim(self, raw: bytes) -> Claim:
        """What one claim means for nodes."""

    def page(self, raw: bytes) -> ClaimPage:
        """Those of a list that have something of ours."""


class NegotiatedReader(Reader, Protocol):
    """Also reads what is negotiated about claims."""

    def negotiated(self, raw: bytes) -> ClassicClaim:
        """One claim. Raises ``msgspec.DecodeError``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classic:
    """What there is to know of a classic row: how its objects differ from those of others.

    ``schedulings`` is the resource in which the scheduler asks, ``classes`` that of classes.
    """

    reader: NegotiatedReader
    dialect: Dialect
    schedulings: str
    classes: str = "resourceclasses"
    read_class: Callable[[bytes], ResourceClass] = read_class


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEnd:
    """One row: where claims are, how they are read, and what is decided from them.

    ``needs`` is a resource without which another row is to be taken for this version. With ``classic`` the
    controller also negotiates.
    """

    version: str
    reader: Reader
    decide: Callable[[NodeView], Decision] = decide
    needs: str = "resourceclaims"
    classic: Classic | None = None

    @property
    def allocates(self) -> bool:
        """Whether it is our controller that allocates."""
        return self.classic is not None

    @property
    def source(self) -> str:
        """The API version, as entries name it."""
        return f"{GROUP}/{self.version}"

    @property
    def claims_path(self) -> str:
        """All claims of the cluster."""
        return self.path("resourceclaims")

    def path(self, plural: str) -> str:
        """All objects of a resource."""
        return f"/apis/{GROUP}/{self.version}/{plural}"

    def path_of(self, plural: str, namespace: str, name: str) -> str:
        """One object. Names come from objects that people may have edited, so they are quoted."""
        namespace, name = quote(namespace, safe=""), quote(name, safe="")
        return f"/apis/{GROUP}/{self.version}/namespaces/{namespace}/{plural}/{name}"

    def claim_path(self, ref: ClaimRef) -> str:
        """One claim."""
        return self.path_of("resourceclaims", ref.namespace, ref.name)


_CLASSIC: Final = ClassicReader()
_ALPHA: Final = ClassicAlphaReader()

FRONT_ENDS: Final = (
    FrontEnd(version="v1", reader=ClaimReader()),
    FrontEnd(version="v1beta2", reader=ClaimReader()),
    FrontEnd(version="v1beta1", reader=ClaimReader()),
    FrontEnd(
        version="v1alpha3",
        reader=_ALPHA,
        needs="podschedulingcontexts",
        classic=Classic(
            reader=_ALPHA,
            dialect=Dialect.DEVICES,
            schedulings="podschedulingcontexts",
            classes="deviceclasses",
            read_class=read_device_class,
        ),
    ),
    FrontEnd(version="v1alpha3", reader=ClaimReader(admin_access_in_spec=True)),
    FrontEnd(
        version="v1alpha2",
        reader=_CLASSIC,
        classic=Classic(reader=_CLASSIC, dialect=Dialect.HANDLES, schedulings="podschedulingcontexts"),
    ),
    FrontEnd(
        version="v1alpha1",
        reader=_CLASSIC,
        classic=Classic(reader=_CLASSIC, dialect=Dialect.HANDLE, schedulings="podschedulings"),
    ),
)
"""Best first. 1.31's v1alpha3 is structured unless its classic mode is switched on: then our controller
allocates the claims that name us, and claims without a controller have nothing of ours."""


class NoFrontEnd(Exception):
    """The cluster serves no version of resource.k8s.io that is in the table (yet)."""


class _Version(msgspec.Struct):
    version: str


class _Group(msgspec.Struct):
    versions: list[_Version]


class _Resource(msgspec.Struct):
    name: str


class _Resources(msgspec.Struct):
    resources: list[_Resource]


_Answer = TypeVar("_Answer", _Group, _Resources)


def discover(client: KubeClient) -> FrontEnd:
    """The first row that the cluster serves. Raises NoFrontEnd and ApiError."""
    try:
        group = _decode(client.get(f"/apis/{GROUP}"), _Group, f"/apis/{GROUP}")
    except NotFound as error:
        raise NoFrontEnd(f"the API server does not serve {GROUP}") from error
    served = {version.version for version in group.versions}
    for row in FRONT_ENDS:
        if row.version in served and _serves(client, row):
            return row
    known = ", ".join(dict.fromkeys(row.version for row in FRONT_ENDS))
    raise NoFrontEnd(f"the API server serves {GROUP} as {', '.join(sorted(served))}; known here: {known}")


def _serves(client: KubeClient, row: FrontEnd) -> bool:
    """Some versions hold other resources only (from 1.34 on v1alpha3 does)."""
    path = f"/apis/{GROUP}/{row.version}"
    names = {resource.name for resource in _decode(client.get(path), _Resources, path).resources}
    return {"resourceclaims", row.needs} <= names


def _decode(body: bytes, kind: type[_Answer], path: str) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Garbled(f"not what discovery answers: {error}", status=200, about=f"GET {path}") from error
