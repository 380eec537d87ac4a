"""Running a program in a mount and network namespace of its own, where the simulated machine is /sys.

There an unmodified program (also one that uses libudev) sees the simulation, and uevents are real kernel ones.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from gpusim.model.machine import Machine
from gpusim.netlink import UeventInjector
from gpusim.session import boot_id_file, laid_out

_CLONE_NEWNS = 0x0002_0000
_CLONE_NEWNET = 0x4000_0000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_ENTER = 'mount --bind "$1" /sys && mount --bind "$2" /proc/sys/kernel/random/boot_id && shift 2 && exec "$@"'


def enter_private() -> None:
    """Put this process into new mount and network namespaces. Call before any thread starts. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)} (root is needed)")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    _loopback_up()


def run_inside(machine: Machine, where: Path, command: Sequence[str], *, real_nodes: bool) -> int:
    """Run a command over the machine, after enter_private; returns its exit status (128 + n for signal n)."""
    with UeventInjector() as injector, laid_out(machine, where, real_nodes=real_nodes) as variables:
        stop = machine.listen(injector.send)
        inside = {**os.environ, **variables, "SYSFS_ROOT": "/sys", "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}
        enter = ["unshare", "-m", "sh", "-c", _ENTER, "sh", str(where / "sys"), str(boot_id_file(where))]
        child = subprocess.Popen([*enter, *command], env=inside)

        def forward(number: int, _: FrameType | None) -> None:
            child.send_signal(number)

        before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            status = child.wait()
        finally:
            stop()
            for number, handler in before.items():
                signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _loopback_up() -> None:
    """The new network namespace has a loopback interface that is down."""
    request = struct.Struct("16sH14x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request.pack(b"lo", 0))
        flags = request.unpack(answer)[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request.pack(b"lo", flags | _IFF_UP))
