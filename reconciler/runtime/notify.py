"""Telling systemd how the service is doing: sd_notify(3), datagrams of VAR=value lines."""

import os
import socket
import time
from collections.abc import Callable, Mapping


def _monotonic_usec() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class Notifier:
    """Sends to $NOTIFY_SOCKET of `environ`; without one, every call does nothing.

    Calls raise OSError, naming the socket, if systemd cannot be reached: the caller decides whether that
    matters.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        clock_usec: Callable[[], int] = _monotonic_usec,
        pid: int | None = None,
    ) -> None:
        """`clock_usec` is CLOCK_MONOTONIC. ValueError if $NOTIFY_SOCKET or $WATCHDOG_USEC make no sense."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._clock_usec = clock_usec
        self._watchdog = _watchdog_seconds(environ, os.getpid() if pid is None else pid)

    @property
    def watchdog_seconds(self) -> float | None:
        """Seconds without alive() after which systemd kills us: call it twice as often. None: no limit."""
        return self._watchdog

    def ready(self, status: str = "") -> None:
        """Start-up, or a reload, is finished."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload began; ready() must follow (Type=notify-reload wants the time along)."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock_usec()}")

    def stopping(self) -> None:
        """The service is shutting down."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(*_status(text))

    def alive(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            try:
                client.sendto("\n".join(lines).encode(), socket.MSG_NOSIGNAL, self._address)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._address.replace("\0", "@", 1)) from error


def _address(value: str) -> str | None:
    if not value:
        return None
    if value.startswith("@"):  # the abstract namespace, as sd_notify(3) writes it
        return "\0" + value[1:]
    if value.startswith("/"):
        return value
    raise ValueError(f"NOTIFY_SOCKET={value!r}: want an absolute path or @name (abstract socket)")


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    text = environ.get("WATCHDOG_USEC", "")
    if not text or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"WATCHDOG_USEC={text!r}: want a positive number of microseconds")
    return int(text) / 1e6


def _status(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()
