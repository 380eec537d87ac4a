import threading

import pytest

from reconciler.node.patient_reads import OVERDUE, PatientReads


def test_a_quick_read_answers_and_nobody_is_called() -> None:
    late: list[str] = []
    reads: PatientReads[str, int] = PatientReads(5.0, late.append)
    assert reads.read("a", lambda: 7) == 7
    assert reads.read("a", lambda: 8) == 8
    assert late == []


def test_a_slow_read_is_overdue_until_it_ends_and_then_says_so() -> None:
    gate, ended = threading.Event(), threading.Event()
    late: list[str] = []

    def ends(key: str) -> None:
        late.append(key)
        ended.set()

    reads: PatientReads[str, int] = PatientReads(0.01, ends)

    def slow() -> int:
        gate.wait(10)
        return 7

    assert reads.read("a", slow) is OVERDUE
    assert reads.read("a", lambda: 8) is OVERDUE  # still the same read; no second one is begun
    assert reads.read("b", lambda: 9) == 9
    gate.set()
    assert ended.wait(10)
    assert late == ["a"]
    assert reads.read("a", lambda: 8) == 7
    assert reads.read("a", lambda: 8) == 8


def test_an_error_comes_back_to_the_caller() -> None:
    reads: PatientReads[str, int] = PatientReads(5.0, lambda _: None)

    def broken() -> int:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        reads.read("a", broken)
    assert reads.read("a", lambda: 1) == 1
