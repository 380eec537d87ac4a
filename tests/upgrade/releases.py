"""Releases that come after this one: this one's own source, with what they might change in the records."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from hack.lab.cluster import Lab
from hack.lab.processes import REPOSITORY, Daemon

_PACKAGES = ("state", "reconciler", "plugin")
_RECORDS = "state/records.py"
_FIELD = '    next_note: str = "of the next release"\n'
_EXTENDED = {
    "Ownership": "    withdrawals: dict[str, str] = {}\n",
    "OwnedLayout": '    profile: str\n    count: int\n    boot_id: str = msgspec.field(name="bootID")\n',
    "HeldClaim": "    nonce: str\n    devices: tuple[AppliedDevice, ...]\n",
    "Held": "    claims: dict[str, HeldClaim] = {}\n",
}
"""Last fields of the records that get one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A source tree that can be run."""

    tree: Path

    def start_agent(self, lab: Lab, node: str) -> Daemon:
        """The node agent of this release, on a machine of the lab."""
        words = ("node", "--uevents", "off", "--processes", "hidden", "--linger-seconds", "0")
        environment = {**lab.machines[node].environment, "NODE_NAME": node}
        own_source = {"PYTHONPATH": str(self.tree), "PYTHONSAFEPATH": "1"}
        return lab.start(f"{node}.log", words, {**environment, **own_source})


def this_release() -> Release:
    """The one under test."""
    return Release(tree=REPOSITORY)


def later_release(tree: Path, *, format_version: int) -> Release:
    """One with a new field in each record and its entries, and perhaps a format that this one can't know."""
    for package in _PACKAGES:  # compiled files too, but not those that somebody is just writing
        shutil.copytree(REPOSITORY / package, tree / package, ignore=shutil.ignore_patterns("*.pyc.*"))
    text = (tree / _RECORDS).read_text()
    changes = {"FORMAT_VERSION = 1\n": f"FORMAT_VERSION = {format_version}\n"}
    changes |= {fields: fields + _FIELD for fields in _EXTENDED.values()}
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tree / _RECORDS).write_text(text)
    return Release(tree=tree)
