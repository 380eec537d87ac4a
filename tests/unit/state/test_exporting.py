"""A machine as a manifest: wanting what is there changes nothing."""

from pathlib import Path

import pytest

import gpusim
from state.exporting import export
from state.foresight import MOST_WAVES, after, foresee
from state.manifest import NodeState, OverrideMode
from state.manifest_decoding import encode
from state.observed import Observed
from tests.unit.state.on_paper import TABLES, observe, planner

FLEX = "0000-03-00-0-0x56c0"
B50 = "0000-03-00-0-0xe212"


def converged(observed: Observed, spec: dict[str, object]) -> Observed:
    next_wave = planner(spec)
    for _ in range(MOST_WAVES):
        todo = next_wave(observed)
        if not todo.actions and todo.ownership is None:
            return observed
        observed = after(observed, todo)
    raise AssertionError("never ends")


def assert_changes_nothing(state: NodeState, observed: Observed) -> None:
    spec = encode(state).get("spec", {})
    assert isinstance(spec, dict)
    foreseen = foresee(observed, planner(spec))
    assert foreseen.actions == ()
    assert foreseen.last.blocked == ()


@pytest.mark.parametrize("machine", [name for name in gpusim.machine_names() if not name.endswith("-x8")])
def test_every_machine_as_it_boots(machine: str, tmp_path: Path) -> None:
    observed = observe(machine, tmp_path)
    state = export(observed, TABLES.profiles, "node")
    assert state.metadata.name == "node"
    assert state.spec.manual_allocations == ()
    assert_changes_nothing(state, observed)


def test_allocations_and_the_layout_under_them(tmp_path: Path) -> None:
    spec: dict[str, object] = {
        "manualAllocations": [
            {"name": "one", "devices": [{"device": f"{FLEX}-m4-vf0", "memory": 1 << 30}]},
            {"name": "vm", "devices": [{"device": f"{FLEX}-m4-vf1", "kernelDriver": "vfio"}]},
        ]
    }
    observed = converged(observe("flex170", tmp_path), spec)
    state = export(observed, TABLES.profiles, None)
    assert [allocation.name for allocation in state.spec.manual_allocations] == ["one", "vm"]
    (override,) = state.spec.overrides
    assert override.virtual_functions is not None
    assert (override.mode, override.virtual_functions.profile) == (OverrideMode.FIXED, "flex170_m4")
    assert_changes_nothing(state, observed)


def test_a_whole_gpu_passed_through(tmp_path: Path) -> None:
    spec: dict[str, object] = {
        "manualAllocations": [{"name": "vm", "devices": [{"device": B50, "kernelDriver": "vfio"}]}]
    }
    observed = converged(observe("b50", tmp_path), spec)
    state = export(observed, TABLES.profiles, None)
    assert [allocation.name for allocation in state.spec.manual_allocations] == ["vm"]
    assert_changes_nothing(state, observed)


def test_vfs_of_no_profile_are_to_be_left_alone(tmp_path: Path) -> None:
    def odd_quotas(machine: gpusim.Machine) -> None:
        quotas = "bus/pci/devices/0000:03:00.0/drm/card0/prelim_iov/vf1/gt"
        for name, value in (("contexts_quota", 256), ("ggtt_quota", 1 << 28), ("lmem_quota", 123 << 21)):
            machine.sysfs.write(f"{quotas}/{name}", str(value))
        machine.foreign_numvfs("0000:03:00.0", 1)

    observed = observe("flex170", tmp_path, odd_quotas)
    (override,) = export(observed, TABLES.profiles, None).spec.overrides
    assert override.mode is OverrideMode.IGNORE
    assert override.reason == "1 VFs that follow no profile"
