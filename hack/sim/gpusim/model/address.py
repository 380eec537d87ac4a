"""PCI addresses as values: domain:bus:device.function."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")


@dataclass(frozen=True, slots=True, order=True)
class PciAddress:
    """A PCI function's address. Domains above ffff exist (VMD, Hyper-V) and print with more digits."""

    domain: int
    routing_id: int

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Raises ValueError unless the text is lower-case dddd:bb:dd.f."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a PCI address like 0000:03:00.0")
        domain, bus, device, function = (int(part, 16) for part in match.groups())
        return cls(domain, bus << 8 | device << 3 | function)

    @property
    def bus(self) -> int:
        return self.routing_id >> 8

    @property
    def auxiliary_id(self) -> int:
        """The number in names such as i915.mei-gscfi.768: domain above the 16 bits of the routing id."""
        return self.domain << 16 | self.routing_id

    def plus(self, count: int) -> PciAddress:
        """The address `count` routing ids further: where SR-IOV puts virtual functions."""
        return PciAddress(self.domain, self.routing_id + count)

    def __str__(self) -> str:
        routing = self.routing_id
        return f"{self.domain:04x}:{routing >> 8:02x}:{routing >> 3 & 31:02x}.{routing & 7}"
