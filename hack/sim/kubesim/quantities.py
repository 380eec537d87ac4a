"""Kubernetes quantities: "8Gi", "500m", "3"."""

import re
from fractions import Fraction

QUANTITY = re.compile(r"(?P<number>[+-]?(\d+(\.\d*)?|\.\d+))(?P<unit>[KMGTPE]i|[numkMGTPE]?|[eE][+-]?\d+)")
POWERS = {"n": -3, "u": -2, "m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}


def quantity(text: str | int | float) -> Fraction:
    """The exact amount. Raises ValueError."""
    found = QUANTITY.fullmatch(str(text))
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    number, unit = Fraction(found["number"]), found["unit"]
    if unit.endswith("i"):
        return number * Fraction(1024 ** POWERS[unit[0].replace("K", "k")])
    base, power = (1000, POWERS[unit]) if unit in POWERS else (10, int(unit[1:]))
    return number * Fraction(base**power) if power >= 0 else number / Fraction(base**-power)
