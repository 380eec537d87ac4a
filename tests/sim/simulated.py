"""What the tests of the simulated kernel share."""

import errno
from collections.abc import Callable

import gpusim

PF = "bus/pci/devices/0000:03:00.0"
ADDRESS = "0000:03:00.0"


def boot(name: str, **options: object) -> gpusim.Machine:
    return gpusim.Machine(gpusim.load_machine(name), **options)  # type: ignore[arg-type]


def number(machine: gpusim.Machine, path: str) -> int:
    return int(machine.sysfs.read(path))


def text(machine: gpusim.Machine, path: str) -> str:
    return machine.sysfs.read(path).decode().removesuffix("\n")


def errno_of(call: Callable[[], object]) -> str | None:
    """Name of the errno that a call raises; None if it succeeds."""
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


def write(machine: gpusim.Machine, path: str, value: object) -> str | None:
    """One write; the name of the errno it gives, if any."""
    return errno_of(lambda: machine.sysfs.write(path, str(value)))
