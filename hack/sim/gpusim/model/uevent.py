"""Uevents as values, and the `uevent` attribute that shows and fakes them."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpusim.model import kstrto

Environment = Mapping[str, str]
Listener = Callable[["Uevent"], None]

_ACTIONS = ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ARGUMENT = re.compile(r"([A-Za-z0-9]+)=([A-Za-z0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uevent:
    """One kernel event. `devpath` starts with /devices; `environment` lacks ACTION, DEVPATH, SUBSYSTEM, SEQNUM."""

    action: str
    devpath: str
    subsystem: str
    environment: Environment
    sequence: int

    @property
    def name(self) -> str:
        """The last part of the devpath: a PCI address, card0, renderD128, mei0 …"""
        return self.devpath.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.action}@{self.name}"


def parse_synthetic(data: bytes) -> tuple[str, dict[str, str]]:
    """What a write to a `uevent` attribute asks for: the action and the SYNTH_* variables. EINVAL if malformed."""
    words = data.decode("ascii", "replace").split()
    if not words or words[0] not in _ACTIONS:
        kstrto.fail(errno.EINVAL)
    if len(words) == 1:
        return words[0], {"SYNTH_UUID": "0"}
    if not _UUID.fullmatch(words[1]):
        kstrto.fail(errno.EINVAL)
    extra = {"SYNTH_UUID": words[1]}
    for word in words[2:]:
        match = _ARGUMENT.fullmatch(word)
        if match is None:
            kstrto.fail(errno.EINVAL)
        extra[f"SYNTH_ARG_{match[1]}"] = match[2]
    return words[0], extra
