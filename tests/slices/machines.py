"""Statuses of simulated machines, as the node agent sees them."""

import shutil
import tempfile
from functools import cache
from pathlib import Path

import gpusim
from gpusim import directory_face
from reconciler.node.once import look
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables, load_tables
from state.planning import NOT_SYNCED
from state.status import NodeStatus
from state.summary import describe_device

MACHINES = (
    "arc-b580", "b50", "b60", "flex140", "flex170-ecc", "flex170", "flex170-x8", "foreign-vfs", "igpu", "igpu-xe",
    "max1550", "max1550-x8", "mixed", "no-gpus", "survivability", "unbound",
)  # fmt: skip


@cache
def tables() -> Tables:
    return load_tables("/nonexistent/pci.ids")


@cache
def status_of(machine: str) -> NodeStatus:
    """The status of a machine just booted, nothing of ours on it yet."""
    simulated = gpusim.Machine(gpusim.load_machine(machine))
    where = Path(tempfile.mkdtemp())
    try:
        directory_face.write_tree(simulated.sysfs, where / "sys")
        boot = where / "proc/sys/kernel/random"
        boot.mkdir(parents=True)
        (boot / "boot_id").write_text("boot\n")
        roots = Roots(
            sysfs=str(where / "sys"), procfs=str(where / "proc"), devfs=str(where / "dev"), cdi=str(where / "cdi"),
            run=str(where / "run"), state=str(where / "lib"), pci_ids="/nonexistent",
        )  # fmt: skip
        observed = look(roots, tables())
    finally:
        shutil.rmtree(where)
    devices = tuple(
        describe_device(observed.gpus[name], observed, NOT_SYNCED, tables().profiles, ())
        for name in sorted(observed.gpus)
    )
    return NodeStatus(boot_id="boot", version="1", devices=devices)
