"""Whether claims could all have what they were given: the judge of what slices allow."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.slices.scheduler import Claim

MIB = 1024 * 1024
_NAME = re.compile(r"(?P<gpu>[0-9a-f]+-[0-9a-f]{2}-[0-9a-f]{2}-[0-9]-0x[0-9a-f]{4})(-(?P<rest>.*))?")
_VF = re.compile(r"(?P<mode>[a-z]+[0-9]+)(-vf(?P<index>[0-9]+))?")


@dataclass(frozen=True)
class Gpu:
    """What a GPU has: local memory in bytes (None: unknown), and how many VFs each mode has."""

    memory: int | None
    vfs: Mapping[str, int]


def clashes(claims: Iterable[Claim], gpus: Mapping[str, Gpu]) -> list[str]:
    """What can't be, in words: empty where everybody can have his device at once."""
    by_gpu: dict[str, list[Claim]] = {}
    for claim in claims:
        match = _NAME.fullmatch(claim.device)
        assert match is not None, claim.device
        if match["rest"] != "monitor":
            by_gpu.setdefault(match["gpu"], []).append(claim)
    return [f"{gpu}: {why}" for gpu, users in by_gpu.items() for why in _on_gpu(users, gpus[gpu])]


def _on_gpu(users: list[Claim], gpu: Gpu) -> Iterable[str]:
    kinds = {_kind(claim) for claim in users}
    if len(kinds) > 1:
        yield f"used as {sorted(kinds)} at once"
        return
    kind = kinds.pop()
    if kind == "whole" and len(users) > 1:
        yield f"given to {len(users)} whole"
    if kind in gpu.vfs:
        named = [claim.device for claim in users if "-vf" in claim.device]
        if len(named) != len(set(named)):
            yield "one VF given twice"
        if len(users) > gpu.vfs[kind]:
            yield f"{len(users)} of {gpu.vfs[kind]} VFs of {kind}"
    elif kind not in ("whole", "shared", "divided"):
        yield f"there is no layout {kind}"
    for what, limit in (("memory", gpu.memory), ("millicores", 1000)):
        used = sum(claim.consumed.get(what, 0) for claim in users)
        if limit is not None and used > limit:
            yield f"{used} of {limit} {what}"


def _kind(claim: Claim) -> str:
    match = _NAME.fullmatch(claim.device)
    assert match is not None
    if match["rest"] is None:
        return "divided" if claim.divided else "whole"
    if match["rest"] == "shared":
        return "shared"
    vf = _VF.fullmatch(match["rest"])
    assert vf is not None, claim.device
    return vf["mode"]
