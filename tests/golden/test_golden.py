"""Golden plans: what is wanted and what is seen, in YAML, and the plan that follows, in words.

A case is a folder. ``UPDATE_GOLDEN=1 pytest tests/golden`` writes each ``plan.yaml`` anew; read every one that
changed, and judge it by the design, before it is kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace as replace_spec

from reconciler.node.tables import Tables, load_tables
from state.actions import WriteCdiSpec
from state.desired import Desired, resolve
from state.foresight import after
from state.layouts import layout_of
from state.manifest import Spec
from state.manifest_decoding import decode
from state.observed import Changing, Observed, Unreadable
from state.planning import NOT_SYNCED, Memory, NotSynced, Plan, plan
from state.records import OwnedLayout, Ownership
from tests.golden.machine import BOOT, NOW, Machine, sub
from tests.golden.plan_words import in_words

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/desired.yaml"))
MOST_WAVES = 12


@pytest.fixture(scope="module")
def tables() -> Tables:
    return load_tables("/nonexistent")


@dataclass(slots=True)
class Case:
    """One case, played from what is observed."""

    machine: Machine
    spec: Spec | None
    observed: Observed
    memory: Memory

    def desired(self) -> Desired | NotSynced:
        if self.spec is None:
            return NOT_SYNCED
        ownership = self.observed.ownership
        applied = {} if isinstance(ownership, Unreadable) else ownership.applied
        return resolve(self.spec, self.observed.gpus, self.machine.table, applied)

    def plan(self) -> Plan:
        """The plan as the agent makes it: users are looked up once it asks for them."""
        todo = self._plan_once()
        if todo.look:
            users = {**self.observed.users, **self.machine.users(self.observed, todo.look)}
            self.observed = replace(self.observed, users=users)
            todo = self._plan_once()
        assert not todo.look, "asks again for what it was told"
        return todo

    def _plan_once(self) -> Plan:
        desired, options = self.desired(), self.machine.options()
        todo = plan(desired, self.observed, self.memory, self.machine.table, options, NOW)
        shuffled = replace(self.observed, gpus=dict(sorted(self.observed.gpus.items(), reverse=True)))
        assert plan(desired, shuffled, self.memory, self.machine.table, options, NOW) == todo
        return todo

    def step(self, todo: Plan) -> None:
        self.observed = after(self.observed, todo)
        self.memory = replace(
            self.memory,
            idle_since=todo.idle_since,
            released=todo.released,
            abandoned_since=todo.abandoned_since,
        )


def load(folder: Path, tables: Tables) -> Case:
    machine = Machine(
        raw=sub(yaml.safe_load((folder / "observed.yaml").read_text())),
        models=tables.models,
        table=tables.profiles,
    )
    wanted = yaml.safe_load((folder / "desired.yaml").read_text())
    spec = None
    if wanted != "NotSynced":
        head = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState"}
        spec = decode({**head, "spec": wanted or {}}, cluster=True).spec
    case = Case(machine=machine, spec=spec, observed=machine.observed(), memory=machine.memory())
    case.observed = replace(case.observed, cdi=machine.cdi(_contents(case)))
    return case


def _contents(case: Case) -> dict[str, bytes]:
    """What the spec files of all entries would be, if nobody were at work and nothing held them back."""
    gpus = {pf: gpu.last if isinstance(gpu, Changing) else gpu for pf, gpu in case.observed.gpus.items()}
    spec = None if case.spec is None else replace_spec(case.spec, paused=False, releases=())
    layouts: dict[str, OwnedLayout] = {}
    for pf, gpu in gpus.items():
        layout = layout_of(gpu, case.machine.table)
        if layout is not None:
            layouts[pf] = OwnedLayout(profile=layout.name, count=layout.count, boot_id=BOOT)
    known = case.observed.ownership
    applied = known.applied if isinstance(known, Ownership) else {}
    calm = replace(case.observed, gpus=gpus, ownership=Ownership(layouts=layouts, applied=applied))
    todo = Case(machine=case.machine, spec=spec, observed=calm, memory=Memory())._plan_once()
    writes = [action for action in todo.actions if isinstance(action, WriteCdiSpec)]
    return {write.file.removeprefix("intel.com-gpu_").removesuffix(".json"): write.content for write in writes}


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str, tables: Tables) -> None:
    case = load(HERE / name, tables)
    before = case.observed.ownership
    first = case.plan()
    known = before if isinstance(before, Ownership) else Ownership()
    words = in_words(first, known, sorted(case.observed.users))
    waves: list[list[str]] = []
    todo = first
    # Foresight knows no provisioning of a driver that is yet to be bound: such cases end after one wave.
    while todo.actions and not case.machine.raw.get("oneWave"):
        assert len(waves) < MOST_WAVES, "comes to no end"
        case.step(todo)
        todo = case.plan()
        waves.append([f"{action.pf}: {action}" for action in todo.actions])
    if waves:
        words["then"] = [wave for wave in waves if wave]
        words["finally"] = {outcome.key: outcome.phase.value for outcome in todo.outcomes}
    case.step(todo)
    settled = case.plan()
    assert settled.ownership is None, "rewrites the ownership record of a settled machine"
    assert settled.held is None, "rewrites the held record of a settled machine"
    path = HERE / name / "plan.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump(words, sort_keys=False, width=110, allow_unicode=True))
    assert words == yaml.safe_load(path.read_text())
