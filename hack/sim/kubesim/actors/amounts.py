"""Amounts written as Kubernetes writes quantities, and requests rounded as a device's policy says."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from kubesim.quantities import quantity
from kubesim.values import Object, at

BINARY = ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki")
DECIMAL = ("E", "P", "T", "G", "M", "k")


def written(amount: Fraction, *, binary: bool) -> str:
    """The canonical text of an amount; what is below 1 is written in thousandths, rounded up."""
    if amount.denominator != 1:
        return f"{ceil(amount * 1000)}m"
    whole = int(amount)
    for place, unit in enumerate(BINARY if binary else DECIMAL):
        size = (1024 if binary else 1000) ** (6 - place)
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return str(whole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A capacity's requestPolicy: the amount when nobody asks, and which amounts there are."""

    default: Fraction | None = None
    values: tuple[Fraction, ...] = ()
    least: Fraction | None = None
    most: Fraction | None = None
    step: Fraction | None = None

    @classmethod
    def of(cls, raw: Object) -> "Policy":
        """Raises ValueError for what is no quantity."""
        span = raw.get("validRange") or {}
        return cls(
            default=_maybe(raw.get("default")),
            values=tuple(sorted(quantity(each) for each in raw.get("validValues") or ())),
            least=_maybe(span.get("min")),
            most=_maybe(span.get("max")),
            step=_maybe(span.get("step")),
        )

    def rounded(self, wanted: Fraction) -> Fraction | None:
        """The next amount there is that is not less, None if there is none."""
        if self.values:
            return next((each for each in self.values if each >= wanted), None)
        if self.least is None:
            return wanted
        up = max(wanted, self.least)
        if self.step:
            up = self.least + ceil((up - self.least) / self.step) * self.step
        return up if self.most is None or up <= self.most else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much of something a device has."""

    value: Fraction
    binary: bool
    policy: Policy | None = None

    @classmethod
    def of(cls, raw: Object) -> "Capacity":
        """Raises ValueError for what is no quantity."""
        policy = raw.get("requestPolicy")
        return cls(
            value=quantity(raw["value"]),
            binary=any(text.endswith("i") for text in _texts(raw)),
            policy=None if policy is None else Policy.of(policy),
        )

    def share(self, wanted: Fraction | None) -> Fraction | None:
        """What a share of a device takes, None if no share is that large. Without a policy it takes everything."""
        if wanted is None:
            return self.value if self.policy is None or self.policy.default is None else self.policy.default
        return wanted if self.policy is None else self.policy.rounded(wanted)


def _texts(raw: Object) -> Iterator[str]:
    yield str(raw["value"])
    default = at(raw, "requestPolicy", "default")
    if default is not None:
        yield str(default)


def _maybe(text: str | None) -> Fraction | None:
    return None if text is None else quantity(text)
