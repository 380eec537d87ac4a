"""Machines of the simulator for discovery tests: as plain directories, or served by FUSE."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gpusim
from gpusim import devfs_face, directory_face, fuse_face
from reconciler.node.observing import Observer
from reconciler.node.roots import Roots
from reconciler.node.tables import Tables, load_tables
from state.observed import PfSeen

PF = "bus/pci/devices/0000:03:00.0"
"""The GPU of the machines with only one card."""

TABLES: Tables = load_tables("/nonexistent/pci.ids")


def roots_below(where: Path) -> Roots:
    return Roots(sysfs=f"{where}/sys", devfs=f"{where}/dev", procfs=f"{where}/proc")


@contextlib.contextmanager
def plain(
    where: Path, name: str, prepare: Callable[[gpusim.Machine], None] = lambda machine: None
) -> Iterator[Roots]:
    """A machine's sysfs as it is after `prepare`, in ordinary files that a test may then change."""
    machine = gpusim.Machine(gpusim.load_machine(name))
    prepare(machine)
    directory_face.write_tree(machine.sysfs, where / "sys")
    with devfs_face.kept_in_step(machine.nodes, where / "dev"):
        yield roots_below(where)


@contextlib.contextmanager
def served(where: Path, name: str) -> Iterator[tuple[gpusim.Machine, Roots]]:
    """A machine that lives. Use with the markers root and fuse."""
    machine = gpusim.Machine(gpusim.load_machine(name))
    (where / "sys").mkdir()
    with (
        fuse_face.mounted(machine.sysfs, where / "sys"),
        devfs_face.kept_in_step(machine.nodes, where / "dev"),
    ):
        yield machine, roots_below(where)


def observer(roots: Roots) -> Observer:
    return Observer(roots, TABLES)


def only_gpu(roots: Roots) -> PfSeen:
    """The one GPU of a machine, looked at anew."""
    (gpu,) = observer(roots).look().gpus.values()
    return gpu
