"""A simulated Linux kernel with Intel GPUs, for tests and demonstrations. See README.md."""

from gpusim.machine_files import load_faults, load_machine, machine_names
from gpusim.model.delays import INSTANT, REALISTIC, Delays
from gpusim.model.faults import FaultRule, Operation
from gpusim.model.machine import Machine
from gpusim.model.uevent import Uevent
from gpusim.spec import GpuSpec, MachineSpec, OtherSpec, SriovSpec
from gpusim.strict import FormatError

__all__ = [
    "INSTANT",
    "REALISTIC",
    "Delays",
    "FaultRule",
    "FormatError",
    "GpuSpec",
    "Machine",
    "MachineSpec",
    "Operation",
    "OtherSpec",
    "SriovSpec",
    "Uevent",
    "load_faults",
    "load_machine",
    "machine_names",
]
