"""Kubernetes quantities as whole numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from types import MappingProxyType

from state.mismatches import shown

_QUANTITY = re.compile(
    r"(?P<whole>[0-9]{0,20})(?:\.(?P<part>[0-9]{0,20}))?(?:[eE](?P<power>[+-]?[0-9]{1,2})|(?P<suffix>[A-Za-z]*))"
)
_FACTORS: Mapping[str, Fraction] = MappingProxyType(
    {
        "": Fraction(1),
        **{prefix: Fraction(1, 1000**power) for power, prefix in enumerate("mun", 1)},
        **{prefix: Fraction(1000**power) for power, prefix in enumerate("kMGTPE", 1)},
        **{f"{prefix}i": Fraction(1024**power) for power, prefix in enumerate("KMGTPE", 1)},
    }
)


def whole_units(text: str) -> int:
    """The quantity, rounded up as ``resource.Quantity.Value()`` does. Raises ValueError when it is none.

    All forms a server may send are read: binary and decimal suffixes, fractions, and exponents (``1e3``).
    """
    if text.isascii() and text.isdigit():
        return int(text)  # most are like this, and there are many
    match = _QUANTITY.fullmatch(text)
    if match is None or not (match["whole"] or match["part"]):
        raise ValueError(f"{shown(text)} is no quantity (for example 4Gi)")
    factor = Fraction(10) ** int(match["power"]) if match["power"] else _FACTORS.get(match["suffix"])
    if factor is None:
        raise ValueError(f"{shown(text)} has an unknown suffix")
    part = match["part"] or ""
    return ceil(Fraction(int((match["whole"] or "") + part), 10 ** len(part)) * factor)
