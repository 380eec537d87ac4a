"""Which of a driver's gRPC services a kubelet of some release calls."""

import re
from dataclasses import dataclass

SERVICES = {
    "v1.DRAPlugin": "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin",
    "v1beta1.DRAPlugin": "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin",
    "v1alpha3.NodeService": "/v1alpha3.Node",
}
OLDEST = 31
"""Kubelets before 1.31 speak another form of v1alpha3, or older services: they are not simulated."""
GENERIC = re.compile(r"v?(\d+)((?:\.\d+)+)")


class Unsupported(ValueError):
    """A driver's list of versions has none the kubelet knows; the text is the kubelet's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What differs between kubelets, by minor release."""

    minor: int

    def __post_init__(self) -> None:
        if self.minor < OLDEST:
            raise ValueError(f"kubelets before 1.{OLDEST} are not simulated, and this is one of 1.{self.minor}")

    @property
    def opens_health_streams(self) -> bool:
        """On by default since 1.36, opened at registration whether or not the driver lists the service."""
        return self.minor >= 36

    @property
    def side_by_side(self) -> bool:
        """Whether several instances of a driver may be registered; before 1.33 a new one replaces the old."""
        return self.minor >= 33

    def service(self, versions: tuple[str, ...]) -> str:
        """The path of the service to call. Raises Unsupported."""
        if self.minor >= 34:
            return SERVICES[_first_known(versions)]
        if self.minor >= 32:
            return SERVICES["v1beta1.DRAPlugin" if "v1beta1.DRAPlugin" in versions else "v1alpha3.NodeService"]
        if not any((found := GENERIC.fullmatch(each)) and found[1] == "1" for each in versions):
            raise Unsupported(f"could not find a supported version in {list(versions)}")
        return SERVICES["v1alpha3.NodeService"]


def _first_known(versions: tuple[str, ...]) -> str:
    if not versions:
        raise Unsupported("empty list of supported gRPC services (aka supported versions)")
    for each in versions:
        if each in ("v1.DRAPlugin", "v1beta1.DRAPlugin"):
            return each
    known = '["v1.DRAPlugin" "v1beta1.DRAPlugin"]'
    listed = " ".join(f'"{each}"' for each in versions)
    raise Unsupported(
        f"none of services supported by the plugin ([{listed}]) are supported by the kubelet ({known})"
    )
