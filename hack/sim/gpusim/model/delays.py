"""How long the simulated kernel takes for the things that take long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """Seconds. All zero by default, as unit tests want it."""

    enable: float = 0.0
    """Once per enabling of virtual functions, before the first appears (msleep(100) in the PCI core)."""
    probe: float = 0.0
    """Per driver probe of a virtual function."""
    disable: float = 0.0
    """Once per disabling, after the last is gone (ssleep(1) in the PCI core)."""
    reset: float = 0.0
    """Per virtual function after disabling: i915 waits for its function level reset."""


INSTANT = Delays()
REALISTIC = Delays(enable=0.1, probe=0.021, disable=1.0, reset=0.02)
"""Probe time as seen for an integrated GPU under xe; reset well below the half second that i915 waits at most."""
