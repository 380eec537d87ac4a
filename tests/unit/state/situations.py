"""Hypothesis strategies for machines and manifests, mostly sensible and freely combined."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from hypothesis import strategies as st

from reconciler.node.tables import Tables, load_tables
from state.cdi import file_name
from state.manifest import (
    AllocatedDevice,
    ClaimAllocation,
    KernelDriver,
    ManualAllocation,
    ManualDevice,
    Override,
    OverrideDriver,
    OverrideMode,
    Spec,
    VirtualFunction,
    VirtualFunctions,
)
from state.observed import CdiFileSeen, Observed
from tests.golden.machine import Machine

FLEX, OTHER, BATTLEMAGE = "0000-4d-00-0-0x56c0", "0000-5d-00-0-0x56c0", "0000-b3-00-0-0xe211"
GPUS = (FLEX, OTHER, BATTLEMAGE)
CLAIMS = ("c1", "c2", "c3")
BINDINGS = (
    {"driver": "vfio-pci", "original": None},
    {"driver": "vfio-pci", "original": "xe"},
    {"driver": "i915", "original": "xe"},
    {"driver": "xe", "original": "i915"},
)


@cache
def tables() -> Tables:
    return load_tables("/nonexistent")


def _modes(pf: str) -> list[str]:
    return ["fs2", "fs4"] if pf == BATTLEMAGE else ["m2", "m4", "fs4"]


@st.composite
def devices(draw: st.DrawFn) -> dict[str, object]:
    """A device as a record names it."""
    pf = draw(st.sampled_from(GPUS))
    mode = draw(st.sampled_from([*_modes(pf), "whole", "shared", "monitor"]))
    if mode in ("whole", "shared", "monitor"):
        name = pf if mode == "whole" else f"{pf}-{mode}"
        driver = draw(st.sampled_from(["drm", "drm", "vfio"])) if mode == "whole" else "drm"
        return {"device": name, "kernelDriver": driver, "adminAccess": mode == "monitor", "request": "gpu"}
    driver = draw(st.sampled_from(["drm", "drm", "drm", "vfio"]))
    return {"device": f"{pf}-{mode}-vf{draw(st.integers(0, 2))}", "kernelDriver": driver, "request": "gpu"}


@st.composite
def gpus(draw: st.DrawFn, pf: str) -> dict[str, object]:
    raw: dict[str, object] = {}
    layout = draw(st.sampled_from([None, *_modes(pf)]))
    if layout is not None:
        raw["vfs"] = layout
        if draw(st.integers(0, 5)) == 0:
            raw["enabled"] = draw(st.integers(0, 5))
    oddities = ["changing", "driver", "sriov", "unbound", "vfio", "other", "mates"]
    oddity = draw(st.sampled_from(["", "", "", "", *oddities]))
    match oddity:
        case "changing":
            raw["changing"] = "turning off 4 VFs"
        case "driver" | "sriov":
            raw[oddity] = "unreadable"
        case "unbound":
            raw["driver"] = None
        case "vfio":
            raw["driver"] = "vfio-pci"
        case "other":
            raw["driver"] = "i915" if pf == BATTLEMAGE else "xe"
        case "mates":
            raw["mates"] = {"0000:4d:00.7": "snd_hda_intel"}
        case _:
            pass
    return raw


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    present = draw(st.lists(st.sampled_from(GPUS), min_size=1, unique=True))
    raw: dict[str, object] = {"gpus": {pf: draw(gpus(pf)) for pf in present}, "byMarks": draw(st.booleans())}
    ownership: dict[str, object] = {
        "layouts": {pf: draw(st.sampled_from(_modes(pf))) for pf in present if draw(st.integers(0, 3))},
        "bindings": {pf: draw(st.sampled_from(BINDINGS)) for pf in present if not draw(st.integers(0, 5))},
        "applied": draw(
            st.dictionaries(
                st.sampled_from(["alloc-a", "alloc-b", "alloc-gone", *(f"claim-{uid}" for uid in CLAIMS)]),
                st.lists(devices(), min_size=1, max_size=2),
                max_size=3,
            )
        ),
    }
    raw["ownership"] = draw(st.sampled_from([ownership] * 9 + ["unreadable"]))
    raw["marks"] = draw(
        st.one_of(
            st.dictionaries(st.sampled_from(CLAIMS), st.sampled_from(["n1", "n2"])),
            st.dictionaries(st.sampled_from(CLAIMS), st.just("n1")),
            st.just("unreadable"),
        )
    )
    held = st.fixed_dictionaries({"nonce": st.just("n1"), "devices": st.lists(devices(), min_size=1, max_size=1)})
    raw["held"] = draw(
        st.one_of(
            st.dictionaries(st.sampled_from(CLAIMS), held, max_size=2), st.sampled_from([None, "unreadable"])
        )
    )
    raw["open"] = {f"{pf} VF 0": "python" for pf in present if not draw(st.integers(0, 4))}
    raw["hidden"] = draw(st.sampled_from([None, None, "hidepid"]))
    raw["idle"] = {pf: draw(st.sampled_from([0, 10, 99])) for pf in present if draw(st.booleans())}
    raw["failures"] = {
        f"{pf}{part}": {"retryIn": draw(st.sampled_from([-1, 5])), "undoFailed": draw(st.booleans())}
        for pf in present
        for part in ("", "/driver", "/vf0")
        if not draw(st.integers(0, 5))
    }
    return Machine(raw=raw, models=tables().models, table=tables().profiles)


def _manual(name: str, raw: dict[str, object]) -> ManualAllocation:
    device = ManualDevice(
        device=str(raw["device"]),
        kernel_driver=KernelDriver(raw["kernelDriver"]),
        admin_access=bool(raw.get("adminAccess")),
    )
    return ManualAllocation(name=name, devices=(device,))


def _claim(uid: str, raw: dict[str, object]) -> ClaimAllocation:
    parts = str(raw["device"]).split("-")
    pf = "-".join(parts[:5])
    is_vf = len(parts) > 6
    allocated = AllocatedDevice(
        request="gpu",
        pool="node",
        device="-".join(parts[:6]),
        physical_function=pf,
        virtual_function=VirtualFunction(profile=parts[5], index=int(parts[6][2:])) if is_vf else None,
        kernel_driver=KernelDriver(raw["kernelDriver"]),
        admin_access=bool(raw.get("adminAccess")),
    )
    return ClaimAllocation(name=uid, claim_namespace="ml", claim_name=uid, source="v1", devices=(allocated,))


@st.composite
def overrides(draw: st.DrawFn, pf: str) -> Override:
    mode = draw(st.sampled_from(OverrideMode))
    layout = draw(st.sampled_from([None, *_modes(pf), "m99"]))
    return Override(
        device=pf,
        mode=mode,
        virtual_functions=VirtualFunctions(profile=layout) if layout and mode is OverrideMode.FIXED else None,
        kernel_driver=draw(st.sampled_from([None, None, *OverrideDriver])),
    )


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    names = draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True))
    uids = draw(st.lists(st.sampled_from(CLAIMS), unique=True))
    return Spec(
        paused=draw(st.integers(0, 9)) == 0,
        manual_allocations=tuple(_manual(name, draw(devices())) for name in names),
        allocations=tuple(_claim(uid, draw(devices())) for uid in uids),
        overrides=tuple(draw(overrides(pf)) for pf in GPUS if not draw(st.integers(0, 5))),
        releases=tuple(draw(st.lists(st.sampled_from(CLAIMS), unique=True, max_size=1))),
    )


def with_files(observed: Observed, keys: list[str]) -> Observed:
    """The machine with some spec file for each of the keys."""
    return replace(observed, cdi=tuple(CdiFileSeen(name=file_name(key), content=b"{}") for key in sorted(keys)))


files = st.lists(st.sampled_from(["alloc-a", "alloc-gone", "claim-c1", "claim-c9"]), unique=True)
