"""What differs between Kubernetes releases, as far as clients can tell."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kubesim import documents
from kubesim.values import Object


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One minor release: what it is called and what it serves.

    `resource_versions` maps the kinds of resource.k8s.io to their versions, preferred first; `classic` is whether
    drivers' controllers allocate claims.
    """

    minor: int
    patch: int
    document_base: str
    resource_versions: Mapping[str, tuple[str, ...]]
    classic: bool = False
    build_date: str = "2026-08-21T00:00:00Z"
    go_version: str = "go1.26.6"
    commit: str = "7b29fb077260554429dcef8234272e9fd25fcfbd"

    @property
    def name(self) -> str:
        return f"1.{self.minor}"

    @property
    def full(self) -> str:
        return f"k1.{self.minor}.{self.patch}"

    @property
    def aggregated_discovery(self) -> bool:
        """Off in 1.26 (alpha), on since."""
        return self.minor >= 27

    @property
    def generates_claim_names(self) -> bool:
        """Whether a template's claims have random names, which pods' statuses tell; <pod>-<entry> before 1.28."""
        return self.minor >= 28

    @property
    def streaming_lists(self) -> bool:
        """WatchList: on since 1.32."""
        return self.minor >= 32

    @property
    def shows_null_times(self) -> bool:
        """Whether metadata without a creation time says so."""
        return self.minor < 35

    def version_info(self) -> Object:
        """The answer of /version."""
        info: Object = {
            "major": "1",
            "minor": str(self.minor),
            "gitVersion": f"v1.{self.minor}.{self.patch}",
            "gitCommit": self.commit,
            "gitTreeState": "clean",
            "buildDate": self.build_date,
            "goVersion": self.go_version,
            "compiler": "gc",
            "platform": "linux/amd64",
        }
        if self.minor >= 34:
            info |= {
                "emulationMajor": "1",
                "emulationMinor": str(self.minor),
                "minCompatibilityMajor": "1",
                "minCompatibilityMinor": str(self.minor - 1),
            }
        return info

    def document(self, group: str, version: str) -> str | None:
        """The OpenAPI document for a group and version: the release's own, or that of the nearest known."""
        word = f"{group or 'core'}-{version}"
        for base in (self.full, self.document_base, "k1.36.3"):
            if f"{base}-{word}" in documents.available():
                return f"{base}-{word}"
        return None


_CLASSIC = ("resourceclasses", "resourceclaims", "resourceclaimtemplates")
_STRUCTURED = ("deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices")


def _all(plurals: tuple[str, ...], *versions: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(plurals, versions)


_OLD = "k1.26.5"
_NEW = "k1.36.3"
_V1ALPHA2 = _all((*_CLASSIC, "podschedulingcontexts"), "v1alpha2")
_PARAMETERS = ("resourceslices", "resourceclassparameters", "resourceclaimparameters")
_STABLE = _all(_STRUCTURED, "v1", "v1beta2", "v1beta1") | {"devicetaintrules": ("v1alpha3",)}

RELEASES: Mapping[str, Release] = {
    release.name: release
    for release in (
        Release(
            minor=26,
            patch=5,
            document_base=_OLD,
            resource_versions=_all((*_CLASSIC, "podschedulings"), "v1alpha1"),
            classic=True,
            commit="636f2be6157d45217eb99744b72cc51e5e9c7e10",
            go_version="go1.21.13",
            build_date="2023-11-06T00:00:00Z",
        ),
        Release(minor=27, patch=7, document_base=_OLD, resource_versions=_V1ALPHA2, classic=True),
        Release(minor=28, patch=3, document_base=_OLD, resource_versions=_V1ALPHA2, classic=True),
        Release(minor=29, patch=1, document_base=_OLD, resource_versions=_V1ALPHA2, classic=True),
        Release(
            minor=30,
            patch=1,
            document_base=_OLD,
            resource_versions=_V1ALPHA2 | _all(_PARAMETERS, "v1alpha2"),
            classic=True,
        ),
        Release(minor=31, patch=14, document_base=_NEW, resource_versions=_all(_STRUCTURED, "v1alpha3")),
        Release(
            minor=32, patch=13, document_base=_NEW, resource_versions=_all(_STRUCTURED, "v1beta1", "v1alpha3")
        ),
        Release(
            minor=33,
            patch=13,
            document_base=_NEW,
            resource_versions=_all(_STRUCTURED, "v1beta2", "v1beta1", "v1alpha3")
            | {"devicetaintrules": ("v1alpha3",)},
        ),
        Release(minor=34, patch=9, document_base=_NEW, resource_versions=_STABLE),
        Release(minor=35, patch=6, document_base=_NEW, resource_versions=_STABLE),
        Release(
            minor=36,
            patch=3,
            document_base=_NEW,
            resource_versions=_STABLE | {"devicetaintrules": ("v1beta2", "v1alpha3")},
        ),
    )
}


CHOOSES = "1.31"
"""The release with both modes: its gate DRAControlPlaneController is off unless asked for."""


def release(name: str, *, classic: bool = False) -> Release:
    """A release by name, as in "1.36". Raises ValueError, naming those there are or that have a classic mode."""
    if name not in RELEASES:
        raise ValueError(f"release {name!r} is not simulated; there are {', '.join(RELEASES)}")
    found = RELEASES[name]
    if not classic or found.classic:
        return found
    if name != CHOOSES:
        raise ValueError(f"release {name!r} has no classic mode; 1.26 to {CHOOSES} have")
    contexts = {"podschedulingcontexts": ("v1alpha3",)}
    return replace(found, classic=True, resource_versions={**found.resource_versions, **contexts})
