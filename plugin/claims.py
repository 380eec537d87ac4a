"""What the kubelet asks for and is answered, whatever version of the service it uses."""

from __future__ import annotations

from dataclasses import dataclass

MOST_CLAIMS = 128
"""In one call. A pod can't have more than 64 claims by name, and few for extended resources besides."""


class BadRequest(Exception):
    """A request that makes no sense, in words."""


class CallFailed(Exception):
    """A call that has no other way to say that its only claim can't be served now, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDevice:
    """One device handed out: the claim's request, the device as schedulers know it, and its CDI name."""

    request: str
    pool: str
    device: str
    cdi_id: str
    share_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A claim whose devices are there and held for it; there is at least one."""

    devices: tuple[PreparedDevice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NotPrepared:
    """A claim that could not be prepared in time, and what it waits for."""

    why: str


Answer = Prepared | NotPrepared
