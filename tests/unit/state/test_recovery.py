"""An ownership record rebuilt from the status it led to is the same record."""

from pathlib import Path

import pytest

from state.desired import resolve
from state.foresight import MOST_WAVES, after
from state.manifest import API_VERSION, KIND
from state.manifest_decoding import decode
from state.observed import Observed
from state.records import Ownership
from state.recovery import rebuild_ownership
from state.status import NodeStatus
from state.summary import SourceState, summarise
from tests.unit.state.on_paper import NOW, TABLES, observe, planner

FLEX = "0000-03-00-0-0x56c0"


def settled(observed: Observed, spec: dict[str, object]) -> tuple[Observed, NodeStatus]:
    """The machine converged to ``spec``, and what the node then says."""
    next_wave = planner(spec)
    for _ in range(MOST_WAVES):
        todo = next_wave(observed)
        if not todo.actions and todo.ownership is None:
            break
        observed = after(observed, todo)
    todo = next_wave(observed)
    state = decode({"apiVersion": API_VERSION, "kind": KIND, "spec": spec}, cluster=False)
    assert isinstance(observed.ownership, Ownership)
    desired = resolve(state.spec, observed.gpus, TABLES.profiles, observed.ownership.applied)
    status = summarise(desired, observed, todo, SourceState(), None, TABLES.profiles, "0", NOW)
    return observed, status


@pytest.mark.parametrize(
    "devices",
    [
        [{"device": f"{FLEX}-m4-vf0"}, {"device": f"{FLEX}-m4-vf1", "kernelDriver": "vfio"}],
        [{"device": f"{FLEX}-fs3-vf2"}],
        [{"device": FLEX, "kernelDriver": "vfio"}],
        [{"device": f"{FLEX}-shared", "memory": 1 << 30}],
    ],
    ids=["table profile", "fair share", "passthrough", "shared"],
)
def test_what_was_ours_is_known_again(devices: list[object], tmp_path: Path) -> None:
    observed, status = settled(
        observe("flex170", tmp_path), {"manualAllocations": [{"name": "a", "devices": devices}]}
    )
    assert isinstance(observed.ownership, Ownership)
    assert observed.ownership != Ownership()
    assert rebuild_ownership(status, observed.boot_id) == observed.ownership


def test_another_boot_or_no_status_says_nothing(tmp_path: Path) -> None:
    spec: dict[str, object] = {"manualAllocations": [{"name": "a", "devices": [{"device": f"{FLEX}-m4-vf0"}]}]}
    _, status = settled(observe("flex170", tmp_path), spec)
    assert rebuild_ownership(status, "another boot") == Ownership()
    assert rebuild_ownership(None, "boot") == Ownership()
