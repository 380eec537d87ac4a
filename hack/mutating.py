"""Does the suite notice when a rule of the engine is broken? Each mutant breaks one, on purpose, in a copy.

hack/mutants             every mutant: killed (by which test) or survived; exit status 1 if any survived
hack/mutants --list      what there is
hack/mutants NAME …      only these
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("state", "reconciler", "tests", "hack", "deploy", "doc", "pyproject.toml")
QUICK = (
    "tests/golden",
    "tests/unit/state",
    "tests/unit/node/test_applying_numvfs.py",
    "tests/model/test_races.py",
)
THOROUGH = ("tests/model/controller", "tests/model/test_any_order.py")
AT_ONCE = 2
MOST_SECONDS = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One rule broken: the text ``old``, found exactly once in ``file``, replaced by ``new``."""

    name: str
    file: str
    old: str
    new: str
    why: str

    def applied_to(self, tree: Path) -> str:
        """The file's text, mutated. Raises ValueError if the old text is not there exactly once."""
        text = (tree / self.file).read_text()
        found = text.count(self.old)
        if found != 1:
            raise ValueError(f"{self.name}: its text is {found} times in {self.file}, not once:\n{self.old}")
        return text.replace(self.old, self.new)


MUTANTS = (
    Mutant(
        name="ignore-users-of-vfs",
        file="state/usage.py",
        old="        return self.unclear or self._marked(slots, unbinding=False) or self._open(pf, slots)\n",
        new="        return None\n",
        why="VFs that somebody uses are turned off",
    ),
    Mutant(
        name="ignore-marks",
        file="state/usage.py",
        old="return self.unclear or self._marked(slots, unbinding=False) or self._open(pf, slots)",
        new="return self.unclear or self._open(pf, slots)",
        why="a prepared claim whose processes can't be seen loses its VFs",
    ),
    Mutant(
        name="ignore-open-nodes",
        file="state/usage.py",
        old="return self.unclear or self._marked(slots, unbinding=False) or self._open(pf, slots)",
        new="return self.unclear or self._marked(slots, unbinding=False)",
        why="without marks, open device nodes are all that says a VF is in use",
    ),
    Mutant(
        name="enable-under-a-whole-gpu",
        file="state/gpu_planning.py",
        old="        _check(self.context.usage.of_enabling(self.gpu.name))\n",
        new="",
        why="VFs are made on a GPU that somebody has as a whole",
    ),
    Mutant(
        name="unbind-under-a-monitor",
        file="state/gpu_planning.py",
        old="        if function.driver is not None:\n            _check(self.context.usage.of_unbinding(slot))\n",
        new="",
        why="a function is taken from its driver while somebody has it open",
    ),
    Mutant(
        name="end-users-for-another-mode",
        file="state/gpu_planning.py",
        old="        _check(self.context.usage.of_vfs(self.gpu.name, [vf.index for vf in sriov.vfs]))\n",
        new=(
            "        if self.demand is None:\n"
            "            _check(self.context.usage.of_vfs(self.gpu.name, [vf.index for vf in sriov.vfs]))\n"
        ),
        why="an entry for another mode ends lingering, but never a use",
    ),
    Mutant(
        name="linger-ignores-marks",
        file="state/gpu_planning.py",
        old="        _check(self.context.usage.of_vfs(self.gpu.name, [vf.index for vf in sriov.vfs]))\n",
        new=(
            "        if at_once:\n"
            "            _check(self.context.usage.of_vfs(self.gpu.name, [vf.index for vf in sriov.vfs]))\n"
        ),
        why="when lingering is over, marks still hold unwanted VFs",
    ),
    Mutant(
        name="skip-the-sync-gate",
        file="state/planning.py",
        old="    if isinstance(desired, NotSynced):\n        unread",
        new="    desired = desired if isinstance(desired, Desired) else Desired()\n    if False:\n        unread",
        why="a missing file is taken for an empty one, and everything is removed",
    ),
    Mutant(
        name="confirm-without-a-record",
        file="state/planning.py",
        old="            nonces={uid: held.claims[uid].nonce for uid in held.claims},\n",
        new="            nonces={uid: mark.nonce for uid, mark in self.claims.marks.items()},\n",
        why="a nonce is echoed although nothing is on record for it",
    ),
    Mutant(
        name="held-record-after-status",
        file="reconciler/node/agent.py",
        old=(
            "        todo = self._write_records(todo)\n"
            "        status = self._publish(desired, observed, todo, sourced)\n"
        ),
        new=(
            "        status = self._publish(desired, observed, todo, sourced)\n"
            "        todo = self._write_records(todo)\n"
        ),
        why="killed in between, the plugin has seen a confirmation that nobody remembers",
    ),
    Mutant(
        name="old-nonce-counts",
        file="state/claims.py",
        old="if uid in marks and marks[uid].nonce == claim.nonce\n",
        new="if uid in marks\n",
        why="a claim given back and prepared anew does not hold what it had before",
    ),
    Mutant(
        name="marks-outlive-a-boot",
        file="state/claims.py",
        old="for uid, mark in sorted(seen.items()) if mark.boot_id == observed.boot_id}",
        new="for uid, mark in sorted(seen.items())}",
        why="nothing is in use after a reboot",
    ),
    Mutant(
        name="changed-claims-move",
        file="state/arbitration.py",
        old="        if record is not None and entry.records != record:\n",
        new="        if record is None and entry.records != record:\n",
        why="a claim keeps what it holds, whatever its entry says by now",
    ),
    Mutant(
        name="release-without-looking",
        file="state/claims.py",
        old="            if _unused(slots, observed, surely=uid not in asked):\n",
        new="            if uid:\n",
        why="a person's release is carried out although a process has the devices open",
    ),
    Mutant(
        name="count-pending-vfs",
        file="state/gpu_planning.py",
        old="return SetNumVfs(pf=pf, address=address, count=wanted.count, profile=wanted.name)",
        new=(
            "return SetNumVfs(pf=pf, address=address, "
            "count=len(self.demand.vf_drivers) or wanted.count, profile=wanted.name)"
        ),
        why="as many VFs are made as are wanted now, not the layout's full number",
    ),
    Mutant(
        name="forget-ownership",
        file="reconciler/node/agent.py",
        old="                self._ownership.store(todo.ownership)\n",
        new="                self._ownership._known = todo.ownership\n",
        why="after a restart nobody knows what is ours",
    ),
    Mutant(
        name="no-intent-before-quotas",
        file="state/gpu_planning.py",
        old=(
            "        self.layout = OwnedLayout("
            "profile=wanted.name, count=wanted.count, boot_id=self.context.boot_id)\n"
        ),
        new=(
            "        if isinstance(action, SetNumVfs):\n"
            "            self.layout = OwnedLayout("
            "profile=wanted.name, count=wanted.count, boot_id=self.context.boot_id)\n"
        ),
        why="quotas of an agent killed meanwhile stay for ever",
    ),
    Mutant(
        name="forget-the-override",
        file="state/gpu_planning.py",
        old="        if self.gpu.function.driver_override is None or wanted in VFIO_DRIVERS:\n",
        new="        if wanted != self.binding.driver:\n",
        why="killed between driver_override and unbind, the override stays for ever",
    ),
    Mutant(
        name="remove-foreign-vfs",
        file="state/gpu_planning.py",
        old=(
            "            if self.demand is None:\n"
            "                return ()\n"
            "            raise _Block(self._foreign(sriov.enabled))\n"
        ),
        new=(
            "            self.layout = OwnedLayout("
            'profile="fs1", count=sriov.enabled, boot_id=self.context.boot_id)\n'
        ),
        why="VFs that somebody else made are turned off",
    ),
    Mutant(
        name="adopt-without-being-told",
        file="state/planning.py",
        old="            if not demand.adopt or demand.profile is None or",
        new="            if demand.profile is None or",
        why="VFs that somebody else made are used without an override that says so",
    ),
    Mutant(
        name="ready-without-cdi",
        file="state/outcomes.py",
        old="        if state.written and entry.key not in self.touched:\n",
        new="        if state.missing is None and entry.key not in self.touched:\n",
        why="a container would start with a CDI file that is not there",
    ),
    Mutant(
        name="ready-while-touched",
        file="state/outcomes.py",
        old="        if state.written and entry.key not in self.touched:\n",
        new="        if state.written:\n",
        why="Ready is said of a device that this very plan changes",
    ),
    Mutant(
        name="turn-off-under-cdi-files",
        file="state/gpu_planning.py",
        old="        self._check_cdi()\n        if self.context.standing_cdi:\n",
        new="        if not self.context.stale_cdi and self.context.standing_cdi:\n",
        why="a CDI file names devices that are gone, or are somebody else's by now",
    ),
    Mutant(
        name="no-undo",
        file="state/gpu_planning.py",
        old="            return self._undo_layout(sriov, failure)\n",
        new="            raise _Block(failure.message)\n",
        why="what failed half-way stays half-way",
    ),
    Mutant(
        name="fewer-vfs-will-do",
        file="reconciler/node/numvfs.py",
        old="    if enabled != count:\n",
        new="    if bool(enabled) != bool(count):\n",
        why="a layout with VFs missing is taken for done",
    ),
    Mutant(
        name="drain-ignored",
        file="state/arbitration.py",
        old="        if override.mode in (OverrideMode.DRAIN, OverrideMode.IGNORE) and not device.monitors:\n",
        new="        if override.mode is OverrideMode.IGNORE and not device.monitors:\n",
        why="a drained GPU gets new users",
    ),
    Mutant(
        name="paused-ignored",
        file="state/planning.py",
        old='Frozen(phase=Phase.PENDING, why="paused (spec.paused)") if self.desired.paused else None\n',
        new="None\n",
        why="things change on a machine that is paused",
    ),
    Mutant(
        name="two-users-of-a-vf",
        file="state/arbitration.py",
        old="            if taken is not None:\n",
        new="            if taken is entry:\n",
        why="one VF is given to two",
    ),
    Mutant(
        name="two-users-of-a-gpu",
        file="state/arbitration.py",
        old="        if not same_mode or wanted.use is Use.WHOLE:\n",
        new="        if not same_mode:\n",
        why="one whole GPU is given to two",
    ),
    Mutant(
        name="mend-what-cannot-be-read",
        file="state/gpu_planning.py",
        old="            self._check_readable()\n",
        new="",
        why="a GPU whose driver can't be read is changed all the same",
    ),
    Mutant(
        name="people-need-no-withdrawal",
        file="state/withdrawing.py",
        old="        if not self.needed or (self._has_begun(pf) and self.confirmed.get(pf) == self.begun[pf]):\n",
        new="        if True:\n",
        why="a person gets a GPU that a scheduler has just given to a claim",
    ),
    Mutant(
        name="any-answer-confirms",
        file="state/withdrawing.py",
        old="(self._has_begun(pf) and self.confirmed.get(pf) == self.begun[pf])",
        new="pf in self.confirmed",
        why="the controller's answer to an earlier withdrawal counts for this one",
    ),
    Mutant(
        name="one-answer-for-every-wish",
        file="state/withdrawing.py",
        old='return pf in self.wishes and self.begun.get(pf, "").endswith(f"-{self.wishes[pf]}")',
        new="return pf in self.begun",
        why="the answer to one wish counts for another",
    ),
    Mutant(
        name="override-takes-allocated-claims",
        file="state/arbitration.py",
        old="if entry.origin is Origin.CLAIM and self.withdrawals.objection(device.logical.pf) is not None:",
        new="if False:",
        why="an override takes a GPU from a claim that was allocated before it was withdrawn",
    ),
    Mutant(
        name="waiting-users-lose-their-devices",
        file="state/usage.py",
        old="if holder.key != asking and holder.key not in served]",
        new="if False]",
        why="a device that a waiting entry's user has open is given to another",
    ),
    Mutant(
        name="first-named-takes-back",
        file="state/arbitration.py",
        old="return 1 if all(self._stands_as_given(device) for device in entry.devices) else 2",
        new="return 1",
        why="an entry takes a GPU back that was made over for another meanwhile",
    ),
    Mutant(
        name="forget-what-an-old-file-gives-out",
        file="state/recording.py",
        old="    return (*record, *(device for device in before if device not in record))\n",
        new="    return record\n",
        why="what an outdated CDI spec still gives out counts as free",
    ),
    Mutant(
        name="two-records-of-one-device",
        file="state/recording.py",
        old="            left = record if key in filed else without_places(record, taken)\n",
        new="            left = record\n",
        why="an entry keeps a claim to a device that was given to another since",
    ),
    Mutant(
        name="turn-off-vfs-of-others",
        file="reconciler/node/numvfs.py",
        old="if count == 0 and seen is not None and (now := host.read_number(path)) not in (0, seen):",
        new="if (now := 0) > 1:",
        why="VFs that somebody made after the plan are turned off",
    ),
    Mutant(
        name="new-object-empties-the-node",
        file="state/mirroring.py",
        old='    return own.spec.get("adoptedUID") == own.metadata.uid\n',
        new="    return True\n",
        why="a GpuNodeState made anew takes all claims' entries from the node",
    ),
    Mutant(
        name="claim-the-generation-of-another-object",
        file="state/publishing.py",
        old="    if seen_uid == live_uid:\n",
        new="    if True:\n",
        why="the controller takes a new object for one that the node follows",
    ),
    Mutant(
        name="deallocate-at-once",
        file="reconciler/controller/classic/claim_talk.py",
        old="        held = claim.releasing and self._held(claim)\n",
        new="        held = False\n",
        why="a claim is deallocated, and its devices are free, while its node still gives them out",
    ),
    Mutant(
        name="forget-open-decisions",
        file="state/dra/deciding.py",
        old="    return look.claim is not None and look.claim.uid == entry.name and look.claim.open\n",
        new="    return False\n",
        why="what was decided for a pod is taken back before anybody was told",
    ),
    Mutant(
        name="split-what-is-whole",
        file="state/classic/room.py",
        old="    if others or use is None:\n",
        new="    if use is None:\n",
        why="a GPU that somebody has in one way is given away in another",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a mutant; ``by`` is the test that failed, None if all passed."""

    mutant: Mutant
    by: str | None
    seconds: float

    def __str__(self) -> str:
        end = f"killed by {self.by}" if self.by else f"SURVIVED: {self.mutant.why}"
        return f"{self.mutant.name:28} {self.seconds:5.0f} s  {end}"


def judge(mutant: Mutant) -> Verdict:
    """Run the tests against one mutant, the quick ones first. Raises ValueError if it no longer applies."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory)
        _copy(tree)
        (tree / mutant.file).write_text(mutant.applied_to(tree))
        by = _killer(tree, QUICK) or _killer(tree, THOROUGH)
    return Verdict(mutant=mutant, by=by, seconds=time.monotonic() - began)


def judge_as_it_is() -> str | None:
    """The first of the quick tests that fails on the code as it is: then mutants can't be judged."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        _copy(Path(directory))
        return _killer(Path(directory), QUICK)


def _copy(tree: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.egg-info")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, tree / name)


def _killer(tree: Path, tests: tuple[str, ...]) -> str | None:
    """The first test that fails, or None."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    command += ["--show-capture=no", "--tb=no", "-k", "not ByFuse and not test_mutants", *tests]
    ended = subprocess.run(
        command,
        cwd=tree,
        env={**os.environ, "CI": "1", "MODEL_SHRINK": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    if ended.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    if failed is None:
        raise RuntimeError(f"no test ran:\n{ended.stdout}{ended.stderr}")
    return failed[1]


def _chosen(names: list[str]) -> Iterator[Mutant]:
    known = {mutant.name: mutant for mutant in MUTANTS}
    for name in names or known:
        if name not in known:
            raise SystemExit(f"there is no mutant {name!r}; see hack/mutants --list")
        yield known[name]


def main() -> int:
    """Judge the mutants named on the command line, or all. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="hack/mutants", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="say what there is")
    arguments = parser.parse_args()
    chosen = list(_chosen(arguments.names))
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name:28} {mutant.file:32} {mutant.why}")
        return 0
    if failed := judge_as_it_is():
        print(f"the suite fails without any mutant: {failed}")
        return 2
    survived = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for verdict in pool.map(judge, chosen):
            print(verdict, flush=True)
            survived += verdict.by is None
    print(f"{len(chosen)} mutants, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
