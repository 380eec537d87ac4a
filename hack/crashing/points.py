"""Crash points: every changing call of a scenario's undisturbed run, before and after; and what comes of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hack.crashing.mutations import KILLED, CrashPoint
from hack.crashing.scenarios import Scenario, Stage, machine_spec
from hack.crashing.stand import Snapshot, Stand, differences, standing, unsound
from hack.crashing.warm import Ended, Errand, Warm

_OWN_NUMBERS = re.compile(r"\.tmp-[0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """How a stage ends when nothing disturbs it, and the calls that led there."""

    calls: tuple[str, ...]
    hardware: Snapshot
    files: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An undisturbed run of a scenario: the machine before, and the goal of each stage."""

    scenario: Scenario
    booted: Snapshot
    goals: tuple[Goal, ...]

    @property
    def calls(self) -> tuple[str, ...]:
        """All changing calls, in order; crash points count from 1 over these."""
        return tuple(call for goal in self.goals for call in goal.calls)

    def points(self) -> tuple[CrashPoint, ...]:
        """Every crash point there is."""
        numbers = range(1, len(self.calls) + 1)
        return tuple(CrashPoint(number=number, after=after) for number in numbers for after in (False, True))

    def locate(self, point: CrashPoint) -> tuple[int, CrashPoint]:
        """The stage that a point lies in, and the point counted within it. Raises ValueError if there is none."""
        number = point.number
        for stage, goal in enumerate(self.goals):
            if 1 <= number <= len(goal.calls):
                return stage, CrashPoint(number=number, after=point.after)
            number -= len(goal.calls)
        raise ValueError(f"{point}: {self.scenario.name} has calls 1 to {len(self.calls)}")


class Broken(AssertionError):
    """A promise was broken; one line for each thing that is not as it should be."""

    def __init__(self, when: str, problems: list[str]) -> None:
        super().__init__(when, problems)
        self.when = when
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join((f"{self.when}:", *(f"  {problem}" for problem in self.problems)))


def undisturbed(scenario: Scenario, warm: Warm, where: Path) -> Reference:
    """Run a scenario as it should be. Raises Broken if not even this ends as booted."""
    with standing(machine_spec(), where) as stand:
        booted = stand.hardware()
        goals = []
        for stage in scenario.stages:
            ended = reach(stand, scenario, stage, warm)
            calls = tuple(map(_canonical, ended.calls))
            goals.append(Goal(calls=calls, hardware=stand.hardware(), files=stand.files()))
        expect("undisturbed", differences(stand.hardware(), booted))
        expect("undisturbed", left_behind(stand))
        return Reference(scenario=scenario, booted=booted, goals=tuple(goals))


def crash(
    reference: Reference, point: CrashPoint, warm: Warm, where: Path, again: CrashPoint | None = None
) -> None:
    """Crash at one point on a fresh machine, start again, and compare; then take all back. Raises Broken.

    ``again`` is a call of the life after that, which crashes too if it comes that far.
    """
    number, within = reference.locate(point)
    with standing(machine_spec(), where) as stand:
        for stage in reference.scenario.stages[:number]:
            reach(stand, reference.scenario, stage, warm)
        crash_here(reference, number, within, warm, stand)
        if again is not None:
            errand = Errand(
                where=str(where), cluster=reference.scenario.cluster, number=again.number, after=again.after
            )
            ended = warm.send(errand)
            expect(f"killed again, at {ended.calls[-1]}", unsound(stand))
        arrive(stand, reference, number, warm)
        take_all_back(stand, reference, warm)


def crash_here(reference: Reference, number: int, within: CrashPoint, warm: Warm, stand: Stand) -> None:
    """Crash in one stage, on a machine that has been through those before. Raises Broken."""
    scenario = reference.scenario
    stand.want(scenario.stages[number])
    errand = Errand(where=str(stand.where), cluster=scenario.cluster, number=within.number, after=within.after)
    ended = warm.send(errand)
    made = tuple(map(_canonical, ended.calls))
    if ended.status != KILLED or made != reference.goals[number].calls[: within.number]:
        last = made[-1] if made else "nothing"
        raise Broken("the run that was to crash", [f"status {ended.status} after {last}", ended.log])
    expect(f"killed at {made[-1]}", unsound(stand))


def arrive(stand: Stand, reference: Reference, number: int, warm: Warm, *, threads: bool = False) -> None:
    """Start again with the same desired state; the end is that of an undisturbed run. Raises Broken."""
    scenario, goal = reference.scenario, reference.goals[number]
    reach(stand, scenario, scenario.stages[number], warm, threads=threads)
    expect("hardware after the restart", differences(stand.hardware(), goal.hardware))
    expect("files after the restart", differences(stand.files(), goal.files))


def take_all_back(stand: Stand, reference: Reference, warm: Warm) -> None:
    """Want nothing any more; the machine is as booted then. Raises Broken."""
    reach(stand, reference.scenario, reference.scenario.stages[-1], warm)
    expect("hardware in the end", differences(stand.hardware(), reference.booted))
    expect("files in the end", left_behind(stand))


def reach(stand: Stand, scenario: Scenario, stage: Stage, warm: Warm, *, threads: bool = False) -> Ended:
    """Converge in one life that nothing ends early. Raises Broken."""
    stand.want(stage)
    ended = warm.send(Errand(where=str(stand.where), cluster=scenario.cluster, threads=threads))
    if ended.status != 0:
        raise Broken("a run without a crash", [f"status {ended.status}", ended.log])
    expect("after a run", unsound(stand))
    return ended


def left_behind(stand: Stand) -> list[str]:
    """Files of ours that hold anything although nothing is wanted."""
    record = stand.load("lib/ownership.json")
    words = [f"the ownership record has {key} {record[key]}" for key in _RECORDED if record.get(key)]
    claims = stand.load("run/status/held.json").get("claims")
    words += [f"the held record has {claims}"] if claims else []
    known = {"run/status/status.json", "run/status/held.json", "lib/ownership.json"}
    return words + [f"{name} is left" for name in sorted(stand.files().keys() - known)]


def expect(when: str, problems: list[str]) -> None:
    """Raise Broken if there are any problems."""
    if problems:
        raise Broken(when, problems)


def _canonical(call: str) -> str:
    return _OWN_NUMBERS.sub(".tmp", call)


_RECORDED = ("layouts", "bindings", "applied", "withdrawals")
