"""What a claim of classic DRA asks of a node, once its parameters and those of its class have been read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from state.classic.parameters import ClaimParameters, ClassParameters, DeviceSelector, DeviceType
from state.dra.resource_claims import ClaimRef
from state.ids import Use


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A claim that has nothing yet."""

    uid: str
    ref: ClaimRef
    claim: ClaimParameters
    of_class: ClassParameters

    @property
    def uses(self) -> tuple[Use, ...]:
        """How it may use a GPU, the most modest use first."""
        if self.of_class.monitor:
            return (Use.MONITOR,)
        itself = Use.SHARED if self.of_class.shared else Use.WHOLE
        match self.claim.type:
            case DeviceType.GPU:
                return (itself,)
            case DeviceType.VF:
                return (Use.VF,)
            case DeviceType.ANY:
                return Use.VF, itself

    def selects(self, labels: Iterable[str], use: Use) -> bool:
        """Whether its class has this use of a GPU known under these names, all in lower case."""
        return any(_selects(selector, labels, use) for selector in self.of_class.selectors)


def _selects(selector: DeviceSelector, labels: Iterable[str], use: Use) -> bool:
    """Selectors of GPUs have their VFs, too: the class of all GPUs was always that of all VFs."""
    if selector.type is DeviceType.VF and use is not Use.VF:
        return False
    if selector.name == "*":
        return True
    pattern = ".*".join(re.escape(part) for part in selector.name.lower().split("*"))
    return any(re.fullmatch(pattern, label) for label in labels)
