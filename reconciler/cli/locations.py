"""Where the machine and our files are: flags first, then the environment, then the usual places."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

from reconciler.cli.problems import UsageError
from reconciler.node.roots import Roots


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """One root: its field of ``Roots``, flag, environment variable and meaning.

    ``proof`` are paths of which one must be below it for the environment variable to be honoured, as in the
    existing Go driver; without it the usual place is taken.
    """

    field: str
    flag: str
    variable: str
    meaning: str
    proof: tuple[str, ...] = ()


LOCATIONS = (
    Location(
        field="sysfs",
        flag="--sysfs-root",
        variable="SYSFS_ROOT",
        meaning="sysfs",
        proof=("bus/pci/devices",),
    ),
    Location(
        field="devfs",
        flag="--devfs-root",
        variable="DEVFS_ROOT",
        meaning="device nodes",
        proof=("dri", "vfio"),
    ),
    Location(field="procfs", flag="--procfs-root", variable="PROCFS_ROOT", meaning="procfs"),
    Location(field="cdi", flag="--cdi-root", variable="CDI_ROOT", meaning="where CDI spec files are written"),
    Location(field="run", flag="--run-dir", variable="RUN_DIR", meaning="our files that need not outlive a boot"),
    Location(field="state", flag="--state-dir", variable="STATE_DIR", meaning="our files that must"),
    Location(field="pci_ids", flag="--pci-ids", variable="PCI_IDS", meaning="names of PCI devices"),
)


def usual(location: Location) -> str:
    """The place taken when nobody says otherwise."""
    return next(str(field.default) for field in fields(Roots) if field.name == location.field)


def locate(flags: Mapping[str, str], environment: Mapping[str, str]) -> tuple[Roots, tuple[str, ...]]:
    """The roots, and notes about variables that are not honoured. ``flags`` by field of ``Roots``.

    Raises UsageError for a flag that is empty or names a sysfs that is none.
    """
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for location in LOCATIONS:
        given, variable = flags.get(location.field), environment.get(location.variable, "")
        if given is not None:
            chosen[location.field] = _from_flag(location, given)
        elif variable and _proven(location, variable):
            chosen[location.field] = os.path.abspath(variable)
        elif variable:
            below = " nor ".join(location.proof)
            notes.append(
                f"{location.variable}: {variable} has no {below} in it, so {usual(location)} is used instead"
            )
    return Roots(**chosen), tuple(notes)


def _from_flag(location: Location, given: str) -> str:
    if not given:
        raise UsageError(f"{location.flag}: must not be empty")
    if location.field == "sysfs" and not _proven(location, given):
        raise UsageError(f"{location.flag}: {given} has no {location.proof[0]} in it")
    return os.path.abspath(given)


def _proven(location: Location, root: str) -> bool:
    return not location.proof or any(os.path.isdir(os.path.join(root, proof)) for proof in location.proof)
