"""What was given out before a reboot binds nobody after it."""

from dataclasses import replace
from pathlib import Path

import pytest

from state.foresight import foresee
from state.observed import Observed, UsersSeen
from state.outcomes import Phase
from state.records import Ownership
from tests.unit.state.on_paper import observe, planner

FLEX = "0000-03-00-0-0x56c0"
WHOLE: dict[str, object] = {"manualAllocations": [{"name": "a", "devices": [{"device": FLEX}]}]}
VF: dict[str, object] = {"manualAllocations": [{"name": "b", "devices": [{"device": f"{FLEX}-m4-vf0"}]}]}


def given_whole(where: Path) -> Observed:
    """A GPU given out whole, on a machine whose processes can't be seen."""
    observed = observe("flex170", where)
    todo = planner(WHOLE)(observed)
    assert isinstance(todo.ownership, Ownership)
    hidden = {name: UsersSeen(hidden="in a container") for name in observed.gpus}
    return replace(observed, ownership=todo.ownership, users=hidden)


@pytest.mark.parametrize("rebooted", [False, True], ids=["same boot", "rebooted"])
def test_hidden_users_count_until_the_machine_has_rebooted(tmp_path: Path, *, rebooted: bool) -> None:
    observed = given_whole(tmp_path)
    if rebooted:
        observed = replace(observed, boot_id="the next boot")
    last = foresee(observed, planner(VF)).last
    phases = {outcome.name: outcome.phase for outcome in last.outcomes}
    assert phases["b"] is (Phase.READY if rebooted else Phase.BLOCKED)
    assert ("a" in phases) is not rebooted
