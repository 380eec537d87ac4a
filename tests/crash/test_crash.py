"""A sample of what `hack/crash --all` tries in full: the agent is killed, and what comes after has to be right."""

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from hack.crashing import kills, points, rounds
from hack.crashing.mutations import CrashPoint
from hack.crashing.points import Broken, left_behind, undisturbed
from hack.crashing.scenarios import MANUAL, SCENARIOS, machine_spec
from hack.crashing.stand import differences, standing, unsound
from hack.crashing.warm import Errand, Warm

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 20261123
POINTS = 24
PAIRS = 4
KILLS = 20


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm() as process:
        yield process


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "machine"


def by_scenario() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", SCENARIOS)


@by_scenario()
def test_after_a_crash_at_any_call_all_is_as_without(name: str, warm: Warm, where: Path) -> None:
    reference = undisturbed(SCENARIOS[name], warm, where)
    chosen = Random(SEED).sample(reference.points(), POINTS)
    tried: list[CrashPoint] = []
    failed = rounds.crash_all(reference, chosen, warm, where, tried.append)
    said = (f"{one.broken}\nhack/crash --scenario {name} {_flags(one.point)}" for one in failed)
    assert failed == [], "\n".join(said)
    assert sorted(map(str, tried)) == sorted(map(str, chosen))


@by_scenario()
def test_a_crash_while_recovering_from_a_crash(name: str, warm: Warm, where: Path) -> None:
    reference = undisturbed(SCENARIOS[name], warm, where)
    chance = Random(SEED)
    for _ in range(PAIRS):
        first = CrashPoint(number=chance.randint(1, len(reference.calls)), after=False)
        stage, _within = reference.locate(first)
        again = CrashPoint(number=chance.randint(1, len(reference.goals[stage].calls)), after=False)
        try:
            points.crash(reference, first, warm, where, again)
        except Broken as broken:
            pytest.fail(f"{broken}\nhack/crash --scenario {name} {_flags(first)} --again {again.number}")


def test_real_kills(warm: Warm, where: Path) -> None:
    reference = undisturbed(MANUAL, warm, where)
    pace = kills.measure(reference, warm, where)
    chance = Random(SEED)
    landed = 0
    for _ in range(3 * KILLS):
        seed = chance.randrange(10**6)
        try:
            landed += kills.kill(reference, pace, seed, warm, where)
        except Broken as broken:
            pytest.fail(f"{broken}\nhack/crash --kill {seed}")
        if landed == KILLS:
            return
    pytest.fail(f"only {landed} of {3 * KILLS} kills came before the process had ended")


def test_every_kind_of_change_is_a_crash_point(warm: Warm, where: Path) -> None:
    calls = "\n".join(call for name in SCENARIOS for call in undisturbed(SCENARIOS[name], warm, where).calls)
    for part in (
        "sriov_numvfs",
        "auto_provisioning",
        "lmem_quota",
        "driver_override",
        "drivers/vfio-pci/bind",
        "drivers/xe/unbind",
        "rename /",
        "unlink /",
        "mkdir /",
        "fsync /",
        "status/.tmp",
        "cdi/.tmp",
        "lib/.tmp",
        "lock/agent",
    ):
        assert part in calls


class TestWhatIsLookedFor:
    """The checks themselves notice what they are for."""

    def test_virtual_functions_nobody_recorded(self, where: Path) -> None:
        with standing(machine_spec(), where) as stand:
            assert unsound(stand) == []
            stand.machine.foreign_numvfs("0000:3b:00.0", 2)
            assert unsound(stand) == ["0000-3b-00-0-0xe211 has VFs, but no layout on record"]

    def test_a_binding_nobody_recorded(self, where: Path) -> None:
        with standing(machine_spec(), where) as stand:
            stand.machine.sysfs.write("bus/pci/drivers/xe/unbind", "0000:5e:00.0")
            assert unsound(stand) == ["0000-5e-00-0-0xe212 is bound to None, but has no binding on record"]

    def test_a_confirmation_without_a_record(self, warm: Warm, where: Path) -> None:
        scenario = SCENARIOS["claims"]
        with standing(machine_spec(), where) as stand:
            points.reach(stand, scenario, scenario.stages[0], warm)
            held = where / "run/status/held.json"
            record = json.loads(held.read_text())
            record["claims"]["a"]["nonce"] = "an older one"
            held.write_text(json.dumps(record))
            (problem,) = unsound(stand)
            assert "confirms nonce n1 of a" in problem

    def test_ready_without_a_cdi_spec(self, warm: Warm, where: Path) -> None:
        with standing(machine_spec(), where) as stand:
            points.reach(stand, MANUAL, MANUAL.stages[0], warm)
            (where / "cdi/intel.com-gpu_alloc-one.json").unlink()
            assert unsound(stand)[0] == "one is called Ready, but no CDI spec has intel.com/gpu=alloc-one-0"

    def test_what_is_left_behind(self, where: Path) -> None:
        with standing(machine_spec(), where) as stand:
            booted = stand.hardware()
            stand.machine.sysfs.write("bus/pci/devices/0000:5e:00.0/driver_override", "vfio-pci")
            (where / "cdi/.tmp-1-2-3").touch()
            assert left_behind(stand) == ["cdi/.tmp-1-2-3 is left"]
            assert "driver_override: +vfio-pci" in "; ".join(differences(stand.hardware(), booted))

    def test_a_run_that_ends_before_its_crash_point(self, warm: Warm, where: Path) -> None:
        reference = undisturbed(MANUAL, warm, where)

        with standing(machine_spec(), where) as stand, pytest.raises(Broken, match="the run that was to crash"):
            points.crash_here(reference, 0, CrashPoint(number=10**6, after=False), warm, stand)

    def test_a_crash_point_is_an_end_without_warning(self, warm: Warm, where: Path) -> None:
        with standing(machine_spec(), where) as stand:
            stand.want(MANUAL.stages[0])
            ended = warm.send(Errand(where=str(where), number=10))
            assert (ended.status, len(ended.calls)) == (137, 10)
            assert sorted(path.name for path in (where / "lib").iterdir()) == ["desired"]
            ended = warm.send(Errand(where=str(where), number=11))
            assert sorted(path.name[:5] for path in (where / "lib").iterdir()) == [".tmp-", "desir"]


def _flags(point: CrashPoint) -> str:
    return f"--point {point.number}{' --after' if point.after else ''}"
