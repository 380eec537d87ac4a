"""hack/crash: the node agent is killed at every change it makes to the world, and has to come out right."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gpusim import fuse_face
from hack.crashing import kills, points, rounds
from hack.crashing.mutations import CrashPoint
from hack.crashing.points import Broken, Reference
from hack.crashing.scenarios import MANUAL, SCENARIOS
from hack.crashing.warm import Warm


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0 all promises kept, 1 some broken, 2 wrong usage or not possible here."""
    parser = _parser()
    options = parser.parse_args(words)
    if os.geteuid() != 0 or fuse_face.unavailable():
        print(f"hack/crash: {fuse_face.unavailable() or 'needs root'}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-crash-") as directory, Warm() as warm:
        run = _Run(options, warm, Path(directory))
        try:
            run.all()
        except ValueError as error:
            parser.error(str(error))
        return run.end()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hack/crash", description=__doc__)
    parser.add_argument("--scenario", choices=SCENARIOS, help="only this one (default: all)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="every crash point, and the kills")
    what.add_argument("--point", type=int, metavar="N", help="only right before call N (needs --scenario)")
    what.add_argument("--kill", type=int, metavar="SEED", help="only the SIGKILL that this seed chooses")
    what.add_argument("--list", action="store_true", help="print the calls that can be crashed at")
    parser.add_argument("--after", action="store_true", help="with --point: right after it instead")
    parser.add_argument("--again", type=int, metavar="M", help="with --point: the next life crashes before call M")
    parser.add_argument("--sample", type=int, default=60, metavar="N", help="so many points in all (60)")
    parser.add_argument("--twice", type=int, default=10, metavar="N", help="so many crashes in a row of two (10)")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="so many real SIGKILLs (20)")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample, the pairs and the kills (1)")
    return parser


class _Run:
    def __init__(self, options: argparse.Namespace, warm: Warm, where: Path) -> None:
        self._options = options
        self._warm = warm
        self._where = where / "machine"
        self._failures = 0
        self._chance = random.Random(options.seed)

    def all(self) -> None:
        names = [self._options.scenario] if self._options.scenario else list(SCENARIOS)
        if self._options.point is not None and len(names) > 1:
            raise ValueError("--point needs --scenario")
        for name in names:
            reference = points.undisturbed(SCENARIOS[name], self._warm, self._where)
            if self._options.list:
                for number, call in enumerate(reference.calls, start=1):
                    print(f"{name} {number:4} {call}")
            elif self._options.point is not None:
                self._one(reference)
            elif self._options.kill is None:
                self._points(reference, len(names))
                self._pairs(reference, len(names))
        if MANUAL.name in names and not self._options.list and self._options.point is None:
            self._kills()

    def end(self) -> int:
        """Say how it went; the exit status."""
        if self._failures:
            print(f"{self._failures} broken")
        return 1 if self._failures else 0

    def _one(self, reference: Reference) -> None:
        point = CrashPoint(number=self._options.point, after=self._options.after)
        again = self._options.again and CrashPoint(number=self._options.again, after=False)
        reference.locate(point)
        print(f"{reference.scenario.name}: {point}: {reference.calls[point.number - 1]}")
        try:
            points.crash(reference, point, self._warm, self._where, again)
        except Broken as broken:
            self._failed(str(broken), "")
        else:
            print("came out right")

    def _points(self, reference: Reference, scenarios: int) -> None:
        every = reference.points()
        chosen = every
        if not self._options.all:
            chosen = tuple(self._chance.sample(every, min(len(every), self._options.sample // scenarios)))
        name = reference.scenario.name
        print(
            f"{name}: {len(every)} crash points ({len(reference.calls)} calls), trying {len(chosen)}", flush=True
        )
        for failed in rounds.crash_all(reference, chosen, self._warm, self._where, _dot):
            after = " --after" if failed.point.after else ""
            self._failed(str(failed.broken), f"--scenario {name} --point {failed.point.number}{after}")
        print()

    def _pairs(self, reference: Reference, scenarios: int) -> None:
        name, count = reference.scenario.name, self._options.twice // scenarios
        print(f"{name}: {count} times two crashes in a row", flush=True)
        for _ in range(count):
            first = self._chance.randint(1, len(reference.calls))
            stage, _within = reference.locate(CrashPoint(number=first, after=False))
            second = self._chance.randint(1, len(reference.goals[stage].calls))
            try:
                points.crash(
                    reference,
                    CrashPoint(number=first, after=False),
                    self._warm,
                    self._where,
                    CrashPoint(number=second, after=False),
                )
            except Broken as broken:
                self._failed(str(broken), f"--scenario {name} --point {first} --again {second}")
            _dot()
        print()

    def _kills(self) -> None:
        reference = points.undisturbed(MANUAL, self._warm, self._where)
        pace = kills.measure(reference, self._warm, self._where)
        if self._options.kill is not None:
            seeds = [self._options.kill]
        else:
            seeds = [self._chance.randrange(10**6) for _ in range(self._options.kills)]
        print(f"{len(seeds)} real SIGKILLs", flush=True)
        landed = 0
        for seed in seeds:
            try:
                landed += kills.kill(reference, pace, seed, self._warm, self._where)
            except Broken as broken:
                self._failed(str(broken), f"--kill {seed}")
            _dot()
        print(f"\n{landed} of them before the process had ended")

    def _failed(self, what: str, again: str) -> None:
        self._failures += 1
        print(f"\n{what}")
        if again:
            print(f"to repeat: hack/crash {again}", flush=True)


def _dot(_: object = None) -> None:
    print(".", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
