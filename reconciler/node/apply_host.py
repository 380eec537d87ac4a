"""What every step at the machine needs: where it is, how to write to it, how to wait for it, how it fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from reconciler.node import sysfs
from reconciler.node.roots import Roots
from state.ids import PciAddress
from state.observed import Unreadable

_T = TypeVar("_T", str, int, tuple[str, ...])

_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.25

_NO_EXPLANATIONS: Mapping[int, str] = {}
_ANY_WRITE: Mapping[int, str] = {
    errno.EACCES: "not permitted; the agent has to run as root with a writable sysfs",
    errno.EROFS: "sysfs is mounted read-only; the agent's container has to be privileged",
    errno.EIO: "the GPU does not answer as it should",
    errno.ENODEV: "the device is gone",
    errno.ENOENT: "there is no such file",
}


class ApplyFailed(Exception):
    """A step could not be done. One line; ``errno`` is None where it wasn't the kernel that refused.

    ``value`` is what was written to ``path``, None if nothing was.
    """

    def __init__(self, *, path: str, why: str, errno: int | None = None, value: str | None = None) -> None:
        super().__init__(path, why, errno, value)
        self.path = path
        self.errno = errno
        self.value = value
        self.why = why

    def __str__(self) -> str:
        where = self.path if self.value is None else f"writing {self.value.strip()!r} to {self.path}"
        return f"{where}: {self.why}{_name_of(self.errno)}"


class Stopping(Exception):
    """The agent was told to stop while a step waited. The step stays half-way: the next start finds it so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelWrite:
    """A write that is under way; ``since`` is on the host's clock. Some block for seconds, or for ever."""

    path: str
    value: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds to wait for what normally is there as soon as the write has returned."""

    links: float = 10.0
    """For the ``virtfn`` links to come or go."""
    driver: float = 10.0
    """For a function's ``driver`` link to come or go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyHost:
    """One machine, as the steps change it; several workers may share it.

    ``clock`` is monotonic. ``stirred`` is notified of each kernel event, and once ``stopping`` turned true.
    ``writing`` hears of each write before it is tried, ``wrote`` of the same one when it is over, however.
    """

    roots: Roots
    clock: Callable[[], float]
    stirred: threading.Condition = field(default_factory=threading.Condition)
    stopping: Callable[[], bool] = lambda: False
    timeouts: Timeouts = Timeouts()
    writing: Callable[[KernelWrite], None] = lambda _: None
    wrote: Callable[[KernelWrite], None] = lambda _: None

    def function(self, address: PciAddress) -> str:
        """The sysfs directory of a PCI function."""
        return f"{self.roots.sysfs}/bus/pci/devices/{address}"

    def read(self, path: str) -> str:
        """An attribute's text. Raises ApplyFailed."""
        return _expect(path, sysfs.read(path))

    def read_number(self, path: str) -> int:
        """An attribute's number. Raises ApplyFailed."""
        return _expect(path, sysfs.read_int(path))

    def names(self, path: str) -> tuple[str, ...]:
        """The names in a directory, in no order. Raises ApplyFailed."""
        return _expect(path, sysfs.list_directory(path))

    def driver(self, address: PciAddress) -> str | None:
        """The driver a function is bound to now. Raises ApplyFailed."""
        path = f"{self.function(address)}/driver"
        name = sysfs.link_name(path)
        return None if name is None else _expect(path, name)

    def write(self, path: str, value: str, explanations: Mapping[int, str] = _NO_EXPLANATIONS) -> None:
        """Hand a value to an attribute in a single system call. Raises ApplyFailed, the errno explained."""
        write = KernelWrite(path=path, value=value, since=self.clock())
        self.writing(write)
        try:
            sysfs.write(path, value)
        except OSError as error:
            why = _explain(error, {**_ANY_WRITE, **explanations})
            raise ApplyFailed(path=path, why=why, errno=error.errno, value=value) from error
        finally:
            self.wrote(write)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Look until the condition holds; False if it still doesn't after so many seconds. Raises Stopping.

        Looks again at each kernel event and at growing intervals, since events can be lost.
        """
        deadline = self.clock() + seconds
        pause = _FIRST_PAUSE
        while not condition():
            left = deadline - self.clock()
            if left <= 0:
                return False
            with self.stirred:
                if self.stopping():
                    raise Stopping
                self.stirred.wait(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
        return True


def _expect(path: str, value: _T | Unreadable | None) -> _T:
    if value is None:
        raise ApplyFailed(path=path, why="is not there")
    if isinstance(value, Unreadable):
        raise ApplyFailed(path=path, why=value.why)
    return value


def _explain(error: OSError, explanations: Mapping[int, str]) -> str:
    number = error.errno or errno.EIO
    return explanations.get(number) or os.strerror(number)


def _name_of(number: int | None) -> str:
    return "" if number is None else f" ({errno.errorcode.get(number, f'errno {number}')})"
