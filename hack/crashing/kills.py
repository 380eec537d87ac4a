"""Real SIGKILLs at moments that a seed chooses, while GPUs are changed at the same time and the kernel takes time.

What the kernel was at goes on when the process is gone, as with a real one.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import gpusim
from hack.crashing.points import Reference, arrive, expect, reach, take_all_back
from hack.crashing.scenarios import machine_spec
from hack.crashing.stand import standing, unsound
from hack.crashing.warm import Errand, Warm

SLOW = gpusim.Delays(enable=0.03, probe=0.01, disable=0.06, reset=0.005)
"""Long enough for a kill to fall into, short enough for a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds that each stage takes when nothing disturbs it."""

    stages: tuple[float, ...]


def measure(reference: Reference, warm: Warm, where: Path) -> Pace:
    """How long the stages take on this machine."""
    with standing(machine_spec(), where, SLOW) as stand:
        seconds = []
        for stage in reference.scenario.stages:
            began = time.monotonic()
            reach(stand, reference.scenario, stage, warm, threads=True)
            seconds.append(time.monotonic() - began)
    return Pace(stages=tuple(seconds))


def kill(reference: Reference, pace: Pace, seed: int, warm: Warm, where: Path) -> bool:
    """Kill once in a stage, at a moment, both of the seed's choice. False if the process was done before.

    Raises Broken.
    """
    chance = random.Random(seed)
    number = chance.randrange(len(pace.stages))
    moment = chance.random() * pace.stages[number]
    scenario = reference.scenario
    with standing(machine_spec(), where, SLOW) as stand:
        for stage in scenario.stages[:number]:
            reach(stand, scenario, stage, warm, threads=True)
        stand.want(scenario.stages[number])
        ended = warm.send(Errand(where=str(where), threads=True, kill_after=moment))
        expect(f"killed in stage {number + 1} after {moment:.3f} s", unsound(stand))
        arrive(stand, reference, number, warm, threads=True)
        take_all_back(stand, reference, warm)
    return ended.status == -signal.SIGKILL
