"""Which of a driver's gRPC services a kubelet of some release calls, and how it differs otherwise."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GENERIC = re.compile(r"\s*v?(\d+(?:\.\d+)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A gRPC service of drivers.

    One call is for all claims of a pod if they go `together`. A `plain` answer has nothing but CDI ids, and those
    are repeated to give a claim back if it `returns_ids`. `deadline` is in seconds, 0 if there is none, None if it
    is the usual one; `fallback` is called where this service is not implemented.
    """

    path: str
    together: bool = True
    plain: bool = False
    returns_ids: bool = False
    deadline: float | None = None
    fallback: "Service | None" = None


V1 = Service(path="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin")
V1BETA1 = Service(path="/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin")
V1ALPHA3 = Service(path="/v1alpha3.Node")
V1ALPHA2 = Service(path="/v1alpha2.Node", together=False, plain=True, deadline=10.0)
V1ALPHA3_PLAIN = Service(path="/v1alpha3.Node", plain=True, fallback=V1ALPHA2)
V1ALPHA1 = Service(path="/v1alpha1.Node", together=False, plain=True, returns_ids=True, deadline=0.0)
SERVICES = {"v1.DRAPlugin": V1, "v1beta1.DRAPlugin": V1BETA1}


class Unsupported(ValueError):
    """A driver's list of versions has none the kubelet knows; the text is the kubelet's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What differs between kubelets, by minor release."""

    minor: int

    @property
    def opens_health_streams(self) -> bool:
        """On by default since 1.36, opened at registration whether or not the driver lists the service."""
        return self.minor >= 36

    @property
    def side_by_side(self) -> bool:
        """Whether several instances of a driver may be registered; in 1.32 a new one replaces the old."""
        return self.minor >= 33

    @property
    def compares_versions(self) -> bool:
        """Whether a second instance of a driver must have a higher version than the first."""
        return self.minor <= 31

    @property
    def prepares_with_containers(self) -> bool:
        """Whether claims are prepared when the first container that uses them is made, not before the pod is."""
        return self.minor <= 26

    @property
    def remembers(self) -> bool:
        """Whether what was prepared is known after a restart."""
        return self.minor >= 27

    @property
    def one_by_one(self) -> bool:
        """Whether each claim has a call of its own."""
        return self.minor <= 27

    @property
    def prepares_only_what_is_used(self) -> bool:
        """Whether claims that no container uses are left alone."""
        return self.minor <= 30

    @property
    def holds_before_calls(self) -> bool:
        """Whether a claim is noted, and so given back later, before its driver has prepared it."""
        return self.minor >= 31

    @property
    def fails_without_ids(self) -> bool:
        """Whether a container is refused when a driver gave no CDI id for its claim, as recorded from 1.26."""
        return self.minor <= 26

    @property
    def wipes_slices(self) -> bool:
        """Whether a driver's slices go with it: drivers have published them themselves since 1.31."""
        return self.minor >= 31

    def refusal(self, driver: str, endpoint: Path, why: Unsupported) -> str:
        """What a driver is told whose versions do not do."""
        if self.compares_versions:
            where = f"validation failed for DRA plugin {driver} at endpoint {endpoint}"
            return f'{where}: kubernetes.io/dra: ValidatePlugin for DRA plugin "{driver}" failed. {why}'
        return f"invalid supported gRPC versions of DRA driver plugin {driver} at endpoint {endpoint}: {why}"

    @property
    def raw_authority(self) -> bool:
        """Whether `:authority` is a socket's path as it is, as recorded from 1.26."""
        return self.minor <= 26

    @property
    def agent(self) -> str:
        """The HTTP user agent, as recorded from 1.26 and 1.36."""
        return "grpc-go/1.49.0" if self.minor <= 26 else "grpc-go/1.79.3"

    def service(self, versions: tuple[str, ...]) -> Service:
        """The service to call. Raises Unsupported."""
        if self.minor >= 34:
            return SERVICES[_first_known(versions)]
        if self.minor >= 32:
            return V1BETA1 if "v1beta1.DRAPlugin" in versions else V1ALPHA3
        highest_version(versions)
        if self.minor == 31:
            return V1ALPHA3
        if self.minor >= 28:
            return V1ALPHA3_PLAIN
        return V1ALPHA2 if self.minor == 27 else V1ALPHA1


def highest_version(versions: tuple[str, ...]) -> tuple[int, ...]:
    """The highest of a driver's versions, as kubelets up to 1.31 see it: 1.x. Raises Unsupported."""
    if not versions:
        raise Unsupported("Plugin returned an empty list for supported versions")
    parsed = {each: _generic(each) for each in versions}
    known = [numbers for numbers in parsed.values() if len(numbers) > 1 and numbers[0] <= 1]
    if known and max(known)[0] == 1:
        return max(known)
    if known:
        why = f"highest supported version reported by plugin is {_dotted(max(known))}, must be v1.x"
    else:
        illegal = [each for each, numbers in parsed.items() if len(numbers) < 2]
        cause = f'illegal version string "{illegal[0]}"' if illegal else "<nil>"
        listed = f"versions ([{' '.join(versions)}]) reported by this plugin"
        why = f"could not find a highest supported version from {listed}: {cause}"
    raise Unsupported(f"None of the versions specified [{_quoted(versions)}] are supported. err={why}")


def higher_than(registered: Iterable[tuple[str, ...]], versions: tuple[str, ...]) -> None:
    """A driver's further instance must be newer than all that are registered. Raises Unsupported."""
    for each in registered:
        if highest_version(each) >= highest_version(versions):
            known = f'a higher supported version: "{_dotted(highest_version(each))}"'
            raise Unsupported(f"Another plugin with the same name is already registered with {known}")


def _generic(version: str) -> tuple[int, ...]:
    found = GENERIC.match(version)
    return tuple(map(int, found[1].split("."))) if found else ()


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _quoted(versions: tuple[str, ...]) -> str:
    return " ".join(f'"{each}"' for each in versions)


def _first_known(versions: tuple[str, ...]) -> str:
    if not versions:
        raise Unsupported("empty list of supported gRPC services (aka supported versions)")
    for each in versions:
        if each in SERVICES:
            return each
    raise Unsupported(
        f"none of services supported by the plugin ([{_quoted(versions)}]) are supported by the kubelet "
        f"([{_quoted(tuple(SERVICES))}])"
    )
