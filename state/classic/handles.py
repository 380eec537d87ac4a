"""The resource handle: what of a decision is kept in the claim itself, so that a lost ledger can be rebuilt.

It is read by us alone. The API server takes at most 16 KiB, so VFs of one layout are listed together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from state.dra.node_object import EntryDevice
from state.dra.resource_claims import Result
from state.ids import Use, parse_logical_device

FORMAT: Final = 1
MOST_BYTES: Final = 16384
"""As much as ``status.allocation.resourceHandle`` may have (1.26.5: more is refused)."""


class HandleError(Exception):
    """A handle that can't be read, or a decision that none can hold; with the reason."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Devices of one GPU that differ in nothing but the VF: ``device`` without its index, then the indexes."""

    device: str
    vfs: tuple[int, ...] = ()
    share_id: str = msgspec.field(default="", name="shareID")
    memory: int | None = None
    millicores: int | None = None
    admin_access: bool = False


class _Handle(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    format_version: int = FORMAT
    node: str
    devices: tuple[_Part, ...]


def handle_of(node: str, devices: Iterable[EntryDevice]) -> str:
    """What to write into a claim. Raises HandleError for more devices than a claim can tell of."""
    vfs: dict[_Part, list[int]] = {}
    for device in devices:
        logical = parse_logical_device(device.device)
        part = _Part(
            device=device.device if logical.index is None else device.device.removesuffix(f"-vf{logical.index}"),
            share_id=device.share_id,
            memory=device.memory,
            millicores=device.millicores,
            admin_access=device.admin_access,
        )
        vfs.setdefault(part, []).extend(() if logical.index is None else (logical.index,))
    parts = tuple(msgspec.structs.replace(part, vfs=tuple(indexes)) for part, indexes in vfs.items())
    raw = msgspec.json.encode(_Handle(node=node, devices=parts), order="sorted")
    if len(raw) > MOST_BYTES:
        raise HandleError(f"{len(raw)} bytes to describe the devices (allowed: {MOST_BYTES})")
    return raw.decode()


def results_of(handle: str) -> tuple[Result, ...]:
    """The devices, as an allocation of structured parameters would list them. Raises HandleError."""
    try:
        read = msgspec.json.decode(handle, type=_Handle)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HandleError(f"not a handle of this driver: {error}") from error
    if read.format_version != FORMAT:
        raise HandleError(f"formatVersion is {read.format_version} (allowed: {FORMAT})")
    named = ((part, name) for part in read.devices for name in _names(part))
    return tuple(
        Result(
            position=position,
            request="",
            pool=read.node,
            device=name,
            share_id=part.share_id,
            admin_access=part.admin_access,
            consumed=tuple(sorted(_consumed(part).items())),
        )
        for position, (part, name) in enumerate(named)
    )


def _names(part: _Part) -> Iterable[str]:
    try:
        logical = parse_logical_device(part.device)
    except ValueError as error:
        raise HandleError(str(error)) from error
    if logical.use is not Use.VF:
        return (part.device,)
    return (f"{part.device}-vf{index}" for index in part.vfs)


def _consumed(part: _Part) -> Mapping[str, str]:
    amounts = {"memory": part.memory, "millicores": part.millicores}
    return {name: str(amount) for name, amount in amounts.items() if amount is not None}
