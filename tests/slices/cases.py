"""Slices as they are decided for a server of a release, without one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from state.manifest import Policy, Spec
from state.slices.capabilities import Capabilities
from state.slices.comparing import Create, compare
from state.slices.desired import desired
from state.slices.model import LiveSlice, Slice
from state.slices.view import DEFAULTS, View, with_defaults
from state.slices.wire import decode_slice, encode_slice
from state.status import NodeStatus
from tests.slices.machines import tables

EVERYTHING = {"taints": True, "sharing": True, "counters": True, "binding": True}

SERVERS: Mapping[str, Capabilities] = {
    "1.37": Capabilities(row="v1", minor=37, **EVERYTHING),
    "1.36": Capabilities(row="v1", minor=36, **EVERYTHING),
    "1.35": Capabilities(row="v1", minor=35),
    "1.34-gates": Capabilities(row="v1", minor=34, **EVERYTHING),
    "1.33": Capabilities(row="v1beta2", minor=33),
    "1.32": Capabilities(row="v1beta1", minor=32),
    "1.31": Capabilities(row="v1alpha3", minor=31),
}
"""Servers as they are by default, and one with all gates open."""


def view(status: NodeStatus, can: Capabilities, spec: Spec | None = None, **more: Any) -> View:
    manifest = spec or Spec()
    return View(
        node="node-a",
        driver="gpu.intel.com",
        status=status,
        spec=manifest,
        policy=with_defaults(manifest.policy, DEFAULTS),
        table=tables().profiles,
        capabilities=can,
        **more,
    )


def slices_of(at: View) -> tuple[Slice, ...]:
    """The slices as they are first written."""
    writes = compare({}, desired(at).slices)
    return tuple(write.slice for write in writes if isinstance(write, Create))


def as_live(slices: tuple[Slice, ...], row: str) -> dict[str, LiveSlice]:
    """What a server has once these are written."""
    raw = {each.name: msgspec.json.encode(encode_slice(each, row)) for each in slices}
    return {
        name: replace(decode_slice(body), uid=f"uid-{name}", resource_version="1") for name, body in raw.items()
    }


def policy(**fields: Any) -> Spec:
    return Spec(policy=Policy(**fields))
