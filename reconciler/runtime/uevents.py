"""Kernel device events from netlink, through pyudev.

Source `kernel` hears the kernel itself, in any network namespace, before udev has made device nodes. Source
`udev` hears the udev daemon afterwards; in a container it is silent for ever, as libudev subscribes to
nothing where it sees no daemon. Either may lose events, so whoever listens must also look everywhere now and
then.
"""

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Protocol

PCI_AND_DRM: tuple[tuple[str, str | None], ...] = (("pci", None), ("drm", "drm_minor"))
"""(subsystem, device type or None for all): PCI functions, and DRM card and render nodes without connectors.
"""


class Source(Enum):
    """Who is listened to."""

    KERNEL = "kernel"
    UDEV = "udev"


class UeventsUnavailable(OSError):
    """No device events to be had here (no libudev, no netlink, not permitted); the cause is chained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uevent:
    """One event. All of it is what the event itself carried; nothing was read from sysfs."""

    action: str
    subsystem: str
    devpath: str
    driver: str | None
    pci_slot_name: str | None
    properties: Mapping[str, str]


class _Monitor(Protocol):
    """The part of pyudev.Monitor in use; pyudev carries no types."""

    def filter_by(self, subsystem: str, device_type: str | None = None) -> None: ...
    def start(self) -> None: ...
    def fileno(self) -> int: ...
    def poll(self, timeout: float | None = None) -> "_Device | None": ...
    def set_receive_buffer_size(self, size: int) -> None: ...


class _Device(Protocol):
    @property
    def properties(self) -> Mapping[str, str]: ...


class UeventListener:
    """Calls `heard` for each event, and `lost` when the kernel had to drop some: look everywhere then.

    Both are called from run(), which ends after stop(). The constructor subscribes, so that a look around
    after it misses nothing; it raises UeventsUnavailable.
    """

    def __init__(
        self,
        heard: Callable[[Uevent], None],
        lost: Callable[[], None],
        *,
        source: Source = Source.KERNEL,
        filters: tuple[tuple[str, str | None], ...] = PCI_AND_DRM,
        buffer_bytes: int | None = None,
    ) -> None:
        self._heard = heard
        self._lost = lost
        self._monitor = _subscribe(source, filters, buffer_bytes)
        self._socket = socket.socket(fileno=os.dup(self._monitor.fileno()))
        self._overflowed = False
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._fd_lock = threading.Lock()

    def run(self) -> None:
        """Deliver events until stop(). OSError if the subscription breaks (an overflow does not break it)."""
        poller = select.poll()
        poller.register(self._monitor.fileno(), select.POLLIN)
        poller.register(self._stop_fd, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poller.poll()]
            if self._stop_fd in ready:
                return
            for event in self._receive():
                self._heard(event)
            # Only now: after an overflow the kernel silently drops everything until the queue was empty once.
            if self._overflowed and not poller.poll(0):
                self._overflowed = False
                self._lost()

    def stop(self) -> None:
        """End run(), from any thread."""
        with self._fd_lock:
            if self._stop_fd >= 0:
                os.eventfd_write(self._stop_fd, 1)

    def close(self) -> None:
        """Give the subscription back. Only after run() has returned."""
        with self._fd_lock:
            if self._stop_fd >= 0:
                os.close(self._stop_fd)
                self._stop_fd = -1
                self._socket.close()
                del self._monitor

    def _receive(self) -> Iterator[Uevent]:
        while True:
            try:
                device = self._monitor.poll(timeout=0)
            except OSError as error:
                # pyudev sees that the socket has an error but neither says which nor clears it.
                number = error.errno or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number != errno.ENOBUFS:
                    raise OSError(number or errno.EIO, f"device events broke off: {error}") from error
                self._overflowed = True
                continue
            if device is None:
                return
            yield to_uevent(device.properties)


def to_uevent(properties: Mapping[str, str]) -> Uevent:
    """Read the properties of an event. What is missing becomes an empty string or None."""
    copy = dict(sorted(properties.items()))
    return Uevent(
        action=copy.get("ACTION", ""),
        subsystem=copy.get("SUBSYSTEM", ""),
        devpath=copy.get("DEVPATH", ""),
        driver=copy.get("DRIVER"),
        pci_slot_name=copy.get("PCI_SLOT_NAME"),
        properties=MappingProxyType(copy),
    )


def _subscribe(source: Source, filters: tuple[tuple[str, str | None], ...], buffer_bytes: int | None) -> _Monitor:
    try:
        import pyudev  # here, so that only daemons that listen pay for it

        monitor: _Monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source.value)
        for subsystem, device_type in filters:
            monitor.filter_by(subsystem, device_type)
        if buffer_bytes is not None:
            with contextlib.suppress(PermissionError):  # wants CAP_NET_ADMIN; the default size works as well
                monitor.set_receive_buffer_size(buffer_bytes)
        monitor.start()
    except ImportError as error:
        raise UeventsUnavailable(errno.ENOENT, f"no device events: {error}") from error
    except OSError as error:
        number = error.errno or errno.EIO
        raise UeventsUnavailable(number, f"no device events: {error.strerror or error}") from error
    return monitor
