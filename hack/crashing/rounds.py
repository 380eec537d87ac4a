"""All crash points, or a sample, fast: one crash in each stage of a round, round after round on one machine.

After a crash and a restart the machine is compared with that of an undisturbed run, so it is as good as a fresh
one for the next stage. What fails here is to be tried alone, on a fresh machine: `points.crash`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.crashing.mutations import CrashPoint
from hack.crashing.points import Broken, Reference, arrive, crash_here, reach, take_all_back
from hack.crashing.scenarios import machine_spec
from hack.crashing.stand import Stand, standing
from hack.crashing.warm import Warm


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A point where a promise was broken, and how."""

    point: CrashPoint
    broken: Broken


def crash_all(
    reference: Reference, points: Iterable[CrashPoint], warm: Warm, where: Path, done: Callable[[CrashPoint], None]
) -> list[Failed]:
    """Crash at all these points; what failed. ``done`` hears of each point."""
    queues: list[deque[CrashPoint]] = [deque() for _ in reference.goals]
    for point in points:
        queues[reference.locate(point)[0]].append(point)
    failed: list[Failed] = []
    while any(queues):
        with standing(machine_spec(), where) as stand:
            try:
                while any(queues):
                    _round(reference, queues, warm, stand, done)
            except _PointFailed as error:  # whatever it left on this machine, a fresh one knows nothing of it
                failed.append(error.failed)
    return failed


class _PointFailed(Exception):
    def __init__(self, failed: Failed) -> None:
        super().__init__(failed)
        self.failed = failed


def _round(
    reference: Reference,
    queues: Sequence[deque[CrashPoint]],
    warm: Warm,
    stand: Stand,
    done: Callable[[CrashPoint], None],
) -> None:
    for number, queue in enumerate(queues):
        if not queue:
            reach(stand, reference.scenario, reference.scenario.stages[number], warm)
            continue
        point = queue.popleft()
        try:
            crash_here(reference, number, reference.locate(point)[1], warm, stand)
            arrive(stand, reference, number, warm)
            if number == len(queues) - 1:
                take_all_back(stand, reference, warm)
        except Broken as broken:
            raise _PointFailed(Failed(point=point, broken=broken)) from broken
        done(point)
