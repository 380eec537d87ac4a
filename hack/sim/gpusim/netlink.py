"""Real kernel uevents: ask the running kernel to broadcast what the model reports.

A message sent to the kernel on NETLINK_KOBJECT_UEVENT (Linux 4.18 and later, CAP_SYS_ADMIN over the network
namespace) is broadcast by the kernel itself, with a SEQNUM, to all listeners of that namespace. In the host's own
namespace udevd would act on it, so that is refused.
"""

from __future__ import annotations

import os
import socket
import struct
from types import TracebackType

from gpusim.model.uevent import Uevent

_KOBJECT_UEVENT = 15
_HEADER = struct.Struct("=IHHII")
_MESSAGE_TYPE = 0x10
_REQUEST = 0x1
_INITIAL_NAMESPACE = "net:[4026531833]"


class UeventInjector:
    """Sends uevents into this process's network namespace. Call `send` as a machine's listener."""

    def __init__(self) -> None:
        """Raises PermissionError in the host's network namespace, OSError if there is no such socket."""
        if in_host_network():
            raise PermissionError("uevents are injected only in a private network namespace (unshare -n)")
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _KOBJECT_UEVENT)
        self._socket.bind((0, 0))

    def send(self, event: Uevent) -> None:
        content = payload(event)
        header = _HEADER.pack(_HEADER.size + len(content), _MESSAGE_TYPE, _REQUEST, 0, 0)
        self._socket.sendto(header + content, (0, 0))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> UeventInjector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def payload(event: Uevent) -> bytes:
    """The text of a kernel uevent, without the SEQNUM that the kernel appends. No padding: libudev refuses it."""
    variables = {"ACTION": event.action, "DEVPATH": event.devpath, "SUBSYSTEM": event.subsystem}
    lines = [f"{event.action}@{event.devpath}"]
    lines += [f"{key}={value}" for key, value in (variables | dict(event.environment)).items()]
    return "".join(f"{line}\0" for line in lines).encode()


def in_host_network() -> bool:
    """Whether this is the machine's first network namespace, or that of its first process."""
    own = os.readlink("/proc/self/ns/net")
    if own == _INITIAL_NAMESPACE:
        return True
    try:
        return own == os.readlink("/proc/1/ns/net")
    except OSError:
        return False
