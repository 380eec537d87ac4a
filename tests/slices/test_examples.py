"""The layouts that were tried on a real scheduler, beside ours."""

import msgspec
import pytest
import yaml

from state.slices.wire import decode_slice
from tests.contract_files import read_text
from tests.slices.cases import SERVERS, slices_of, view
from tests.slices.machines import status_of
from tests.slices.scheduler import Scheduler

RECOMMENDED = "examples/recommended.yaml"
PF = "0000-b3-00-0-0x56c0"
IGPU = "0000-00-02-0-0x4680"


def recommended() -> list[dict[str, object]]:
    documents = yaml.safe_load_all(read_text(RECOMMENDED))
    return [each for each in documents if each["kind"] == "ResourceSlice"]


def test_the_modes_of_a_gpu_are_those_that_were_tried() -> None:
    tried = {
        device.name.removeprefix(PF): device
        for each in recommended()
        for device in decode_slice(msgspec.json.encode(each)).content.devices
        if device.name.startswith(PF)
    }
    gpu = status_of("flex170").devices[0]
    ours = {
        device.name.removeprefix(gpu.name): device
        for each in slices_of(view(status_of("flex170"), SERVERS["1.37"]))
        for device in each.devices
    }
    assert ours.keys() == tried.keys()
    for name, device in tried.items():
        mine = ours[name]
        assert (mine.multiple, bool(mine.counter_set)) == (device.multiple, bool(device.counter_set))
        assert [taint.key for taint in mine.taints] == [taint.key for taint in device.taints]
        for attribute in ("type", "profile", "vfs"):
            assert mine.attribute(attribute) == device.attribute(attribute)
        assert dict(device.capacity).keys() <= dict(mine.capacity).keys()


@pytest.mark.parametrize("kind", ["whole", "vf", "shared"])
def test_the_scheduler_of_our_tests_agrees_with_what_was_tried(kind: str) -> None:
    """One mode shuts out the others; only the integrated GPU, which has no modes, is left to a whole claim."""
    scheduler = Scheduler(slices=recommended())
    first = scheduler.allocate("vf" if kind == "vf" else "shared" if kind == "shared" else "gpu", {})
    assert first is not None
    assert first.device.startswith(PF)
    others = {"vf": ["shared"], "shared": ["vf"], "whole": ["vf", "shared"]}[kind]
    assert all(scheduler.allocate(other, {}) is None for other in others)
    whole = scheduler.allocate("gpu", {})
    assert whole is not None
    assert whole.device == IGPU
