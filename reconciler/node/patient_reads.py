"""Reads that may block, each in a thread of its own, so that one GPU in trouble holds up no other.

Reading ``sriov_numvfs`` or ``driver_override`` takes the device's lock (drivers/pci: ``device_lock``), which a
write of another process may hold for as long as it takes to turn VFs off, or for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Overdue:
    """The answer "not yet": the read goes on, and ends some time."""


OVERDUE = Overdue()


@dataclass(slots=True)
class _Read(Generic[_Value]):
    done: threading.Event = field(default_factory=threading.Event)
    values: list[_Value] = field(default_factory=list)
    error: BaseException | None = None
    overdue: bool = False


class PatientReads(Generic[_Key, _Value]):
    """Reads by key, at most one a key at a time. For one caller's thread.

    ``ended`` is called, from the reading thread, when a read that was overdue has come to its end.
    """

    def __init__(self, patience: float, ended: Callable[[_Key], None]) -> None:
        self._patience = patience
        self._ended = ended
        self._running: dict[_Key, _Read[_Value]] = {}
        self._lock = threading.Lock()

    def read(self, key: _Key, read: Callable[[], _Value], *, patience: float = 0) -> _Value | Overdue:
        """What ``read`` returns or raises, or OVERDUE when that takes longer than ``patience`` seconds.

        The patience given here counts where it is more than the usual one.

        While a read is overdue the same one is asked about again, and no longer waited for.
        """
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = _Read()
            thread = threading.Thread(target=self._run, args=(key, running, read), name=f"read-{key}", daemon=True)
            thread.start()
        running.done.wait(0 if running.overdue else max(patience, self._patience))
        with self._lock:
            if not running.done.is_set():
                running.overdue = True
                return OVERDUE
        del self._running[key]
        if running.error is not None:
            raise running.error
        return running.values[0]

    def _run(self, key: _Key, running: _Read[_Value], read: Callable[[], _Value]) -> None:
        try:
            running.values.append(read())
        except BaseException as error:  # noqa: BLE001 -- raised again where it was asked for
            running.error = error
        with self._lock:
            running.done.set()
        if running.overdue:
            self._ended(key)
