"""Simulated machines observed once from plain directories, for tests of what is made of an observation."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gpusim
from gpusim import devfs_face, directory_face
from reconciler.node.once import look
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables, load_tables
from state.desired import resolve
from state.manifest import API_VERSION, KIND
from state.manifest_decoding import decode
from state.observed import Observed, UsersSeen
from state.planning import Memory, Options, Plan, plan
from state.records import Ownership

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TABLES: Tables = load_tables("")


def observe(
    machine: str, where: Path, prepare: Callable[[gpusim.Machine], None] = lambda machine: None
) -> Observed:
    """The simulated machine called ``machine``, with nobody using anything."""
    simulated = gpusim.Machine(gpusim.load_machine(machine))
    prepare(simulated)
    directory_face.write_tree(simulated.sysfs, where / "sys")
    random = where / "proc/sys/kernel/random"
    random.mkdir(parents=True)
    (random / "boot_id").write_text(f"{simulated.boot_id}\n")
    roots = Roots(
        sysfs=f"{where}/sys",
        devfs=f"{where}/dev",
        procfs=f"{where}/proc",
        cdi=f"{where}/cdi",
        run=f"{where}/run",
        state=f"{where}/lib",
    )
    with devfs_face.kept_in_step(simulated.nodes, where / "dev"):
        observed = look(roots, TABLES)
    return replace(observed, users={name: UsersSeen() for name in observed.gpus})


def planner(spec: dict[str, object], *, linger: float = 0) -> Callable[[Observed], Plan]:
    """``plan`` for one desired state, as a function of what is observed."""
    state = decode({"apiVersion": API_VERSION, "kind": KIND, "spec": spec}, cluster=False)
    options = Options(linger=timedelta(seconds=linger))

    def next_wave(observed: Observed) -> Plan:
        ownership = observed.ownership
        assert isinstance(ownership, Ownership)
        desired = resolve(state.spec, observed.gpus, TABLES.profiles, ownership.applied)
        return plan(desired, observed, Memory(), TABLES.profiles, options, NOW)

    return next_wave
