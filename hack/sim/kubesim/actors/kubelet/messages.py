"""The messages between kubelet and driver, from the kubelet's side. Field numbers are those of Kubernetes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from kubesim.actors.kubelet import wire

GET_INFO = "/pluginregistration.Registration/GetInfo"
NOTIFY = "/pluginregistration.Registration/NotifyRegistrationStatus"
HEALTH = "/v1alpha1.DRAResourceHealth/NodeWatchResources"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """What a driver says of itself."""

    type: str
    name: str
    endpoint: str
    supported_versions: tuple[str, ...]

    @classmethod
    def decode(cls, data: bytes) -> "PluginInfo":
        """Raises Malformed."""
        found = wire.fields(data)
        return cls(
            type=wire.string(found.get(1, [])),
            name=wire.string(found.get(2, [])),
            endpoint=wire.string(found.get(3, [])),
            supported_versions=wire.strings(found.get(4, [])),
        )


def registration_status(error: str = "") -> bytes:
    """RegistrationStatus: registered, unless there is an error."""
    return wire.flag(1, not error) + wire.text(2, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimName:
    """A claim in a request to prepare or unprepare; `handle` is what its driver's controller said, if anything."""

    namespace: str
    uid: str
    name: str
    handle: str = ""

    def encode(self) -> bytes:
        """Claim, and the requests of services that are called for one claim at a time."""
        return (
            wire.text(1, self.namespace)
            + wire.text(2, self.uid)
            + wire.text(3, self.name)
            + wire.text(4, self.handle)
        )

    def encode_with_ids(self, ids: Iterable[str]) -> bytes:
        """NodeUnprepareResourceRequest of v1alpha1: the CDI ids instead of the handle."""
        return replace(self, handle="").encode() + b"".join(wire.text(4, each) for each in ids)


def claims_request(claims: Iterable[ClaimName]) -> bytes:
    """NodePrepareResourcesRequest and NodeUnprepareResourcesRequest are alike."""
    return b"".join(wire.nested(1, each.encode()) for each in claims)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDevice:
    """A device of a claim: which requests it is for, and what the runtime is told to add."""

    requests: tuple[str, ...]
    pool: str
    device: str
    cdi_ids: tuple[str, ...]
    share: str = ""

    @classmethod
    def decode(cls, data: bytes) -> "PreparedDevice":
        """Raises Malformed."""
        found = wire.fields(data)
        return cls(
            requests=wire.strings(found.get(1, [])),
            pool=wire.string(found.get(2, [])),
            device=wire.string(found.get(3, [])),
            cdi_ids=wire.strings(found.get(4, [])),
            share=wire.string(found.get(5, [])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The answer for one claim."""

    devices: tuple[PreparedDevice, ...] = ()
    error: str = ""


def prepared(data: bytes, *, plain: bool = False) -> Mapping[str, Prepared]:
    """NodePrepareResourcesResponse by claim UID; up to 1.30 it is `plain`. Raises Malformed."""
    return {uid: _plainly(content) if plain else _in_full(content) for uid, content in _entries(data)}


def _in_full(content: bytes) -> Prepared:
    found = wire.fields(content)
    devices = tuple(PreparedDevice.decode(each) for each in wire.messages(found.get(1, [])))
    return Prepared(devices=devices, error=wire.string(found.get(2, [])))


def _plainly(content: bytes) -> Prepared:
    """CDI ids alone. Raises Malformed."""
    found = wire.fields(content)
    return Prepared(devices=(unnamed(wire.strings(found.get(1, []))),), error=wire.string(found.get(2, [])))


def unnamed(ids: tuple[str, ...]) -> PreparedDevice:
    """All there is to know of a claim of which a driver gives only the CDI ids."""
    return PreparedDevice(requests=(), pool="", device="", cdi_ids=ids)


def prepared_alone(data: bytes) -> Prepared:
    """NodePrepareResourceResponse of v1alpha1 and v1alpha2. Raises Malformed."""
    return Prepared(devices=(unnamed(wire.strings(wire.fields(data).get(1, []))),))


def unprepared(data: bytes) -> Mapping[str, str]:
    """NodeUnprepareResourcesResponse: errors ("" for none) by claim UID. Raises Malformed."""
    return {uid: wire.string(wire.fields(content).get(1, [])) for uid, content in _entries(data)}


def _entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    for entry in wire.messages(wire.fields(data).get(1, [])):
        found = wire.fields(entry)
        yield wire.string(found.get(1, [])), (wire.messages(found.get(2, [b""])[-1:]) or (b"",))[0]


class Health(Enum):
    """HealthStatus, as pod statuses spell it."""

    UNKNOWN = "Unknown"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceHealth:
    """A driver's word on a device; `timeout` in seconds, 0 if it leaves that to the kubelet."""

    pool: str
    device: str
    health: Health
    timeout: int
    message: str

    @classmethod
    def decode(cls, data: bytes) -> "DeviceHealth":
        """Raises Malformed."""
        found = wire.fields(data)
        identity = wire.fields((wire.messages(found.get(1, [])) or (b"",))[-1])
        known = tuple(Health)
        said = wire.number(found.get(2, []))
        return cls(
            pool=wire.string(identity.get(1, [])),
            device=wire.string(identity.get(2, [])),
            health=known[said] if said < len(known) else Health.UNKNOWN,
            timeout=wire.number(found.get(4, [])),
            message=wire.string(found.get(5, [])),
        )


def health_list(data: bytes) -> tuple[DeviceHealth, ...]:
    """NodeWatchResourcesResponse. Raises Malformed."""
    return tuple(DeviceHealth.decode(each) for each in wire.messages(wire.fields(data).get(1, [])))


@dataclass(slots=True, kw_only=True)
class HealthBook:
    """What drivers last said of their devices, and until when that counts."""

    _known: dict[str, dict[tuple[str, str], tuple[DeviceHealth, float]]] = field(default_factory=dict)

    def hear(self, driver: str, said: Iterable[DeviceHealth], now: float, default_timeout: float) -> bool:
        """Replace what is known; whether a device that is named changed."""
        before = self._known.get(driver, {})
        after = {(each.pool, each.device): (each, now + (each.timeout or default_timeout)) for each in said}
        self._known[driver] = after
        return any(before.get(key, (None, 0.0))[0] != each for key, (each, _) in after.items())

    def forget(self, driver: str) -> None:
        self._known.pop(driver, None)

    def of(self, driver: str, pool: str, device: str, now: float) -> tuple[Health, str]:
        """A device's health and the message with it; unknown if nothing was said lately."""
        said, until = self._known.get(driver, {}).get((pool, device), (None, 0.0))
        if said is None or now > until:
            return Health.UNKNOWN, ""
        return said.health, said.message[:1024]
