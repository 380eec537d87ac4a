"""What is published of a status, and what is urgent."""

from datetime import UTC, datetime

from msgspec.structs import replace

from state.publishing import as_json, is_urgent, status_for
from state.status import AllocationStatus, Condition, NodeStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONDITION = Condition(type="Ready", status="True", reason="r", last_transition_time=NOW, observed_generation=7)
STATUS = NodeStatus(boot_id="b", version="1", observed_generation=7, conditions=(CONDITION,))


def test_a_generation_counts_for_one_object() -> None:
    assert status_for(STATUS, "u1", "u1") is STATUS
    for seen in (None, "u0"):
        other = status_for(STATUS, seen, "u1")
        assert other.observed_generation is None
        assert [condition.observed_generation for condition in other.conditions] == [None]
        assert "observedGeneration" not in str(as_json(other))


def test_json_as_the_api_server_has_it() -> None:
    assert as_json(STATUS)["conditions"] == [
        {
            "type": "Ready",
            "status": "True",
            "reason": "r",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 7,
        }
    ]


def test_names_that_are_no_text_are_escaped() -> None:
    odd = AllocationStatus(name="a", origin="alloc", phase="Blocked", since=NOW, message="open in \udcff")
    assert "\\udcff" in str(as_json(replace(STATUS, allocations=(odd,))))


def test_urgent_is_what_somebody_waits_for() -> None:
    ready = AllocationStatus(name="u1", origin="claim", phase="Ready", since=NOW)
    with_one = replace(STATUS, allocations=(ready,))
    assert is_urgent(None, STATUS)
    assert is_urgent(STATUS, with_one)
    assert is_urgent(with_one, STATUS)
    assert is_urgent(with_one, replace(STATUS, allocations=(replace(ready, phase="Failed"),)))
    assert is_urgent(STATUS, replace(STATUS, withdrawn={"g": "t"}))
    assert not is_urgent(with_one, replace(STATUS, allocations=(replace(ready, message="more words"),)))
    assert not is_urgent(STATUS, replace(STATUS, version="2"))
