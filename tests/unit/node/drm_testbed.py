"""A DRM device whose driver answers memory queries, made with umockdev. Run by test_drm_query.

Prints what the product makes of it. Runs below umockdev-wrapper, with Debian's gi on the path.
"""

import errno
import struct
import sys
from typing import Any

import gi  # type: ignore[import-not-found]

gi.require_version("UMockdev", "1.0")
from gi.repository import UMockdev  # type: ignore[import-not-found]  # noqa: E402

from reconciler.node.drm_query import DrmQueryError, local_memory  # noqa: E402

DEVICE = """\
P: /devices/pci0000:00/0000:03:00.0/drm/renderD128
N: dri/renderD128
E: SUBSYSTEM=drm
E: DEVNAME=/dev/dri/renderD128
E: MAJOR=226
E: MINOR=128
A: dev=226:128

"""
REGION = struct.Struct("<HH4xQ72x")
XE = struct.pack("<I4x", 2) + REGION.pack(0, 0, 64 << 30) + REGION.pack(1, 1, 24480 << 20)
I915 = struct.pack("<I12x", 3) + REGION.pack(0, 0, 64 << 30) + 2 * REGION.pack(1, 0, 16 << 30)


class Driver(UMockdev.IoctlBase):  # type: ignore[misc]
    """Answers as i915 or xe do; the scenario says what goes wrong."""

    scenario = ""
    interrupted = False

    def do_handle_ioctl(self, client: Any) -> bool:
        number, argument = client.get_request(), client.get_arg()
        if self.scenario == "i915-interrupted" and not self.interrupted:
            self.interrupted = True
            client.complete(-1, errno.EINTR)
        elif number == 0xC0106479 and self.scenario.startswith("i915"):
            self.i915(client, argument.resolve(0, 16))
        elif number == 0xC0286440 and self.scenario.startswith("xe"):
            self.xe(client, argument.resolve(0, 40))
        else:
            client.complete(-1, errno.ENOTTY)
        return True

    def i915(self, client: Any, request: Any) -> None:
        items, flags, _ = struct.unpack("<IIQ", bytes(request.retrieve()))
        item = request.resolve(8, 24)
        query, length, item_flags, _ = struct.unpack("<QiIQ", bytes(item.retrieve()))
        if (items, flags, query, item_flags) != (1, 0, 4, 0):
            client.complete(-1, errno.EPROTO)
            return
        if self.scenario == "i915-refuses":
            item.update(8, list(struct.pack("<i", -errno.EINVAL)))
        elif length == 0:
            item.update(8, list(struct.pack("<i", len(I915))))
        else:
            item.resolve(16, length).update(0, list(I915))
        client.complete(0, 0)

    def xe(self, client: Any, request: Any) -> None:
        _, query, size, _ = struct.unpack_from("<QIIQ", bytes(request.retrieve()))
        answer = XE
        if self.scenario == "xe-hostile-count":
            answer = struct.pack("<I", 2**32 - 1) + XE[4:]
        if self.scenario == "xe-refuses" or query != 1:
            client.complete(-1, errno.EPERM)
            return
        if self.scenario == "xe-huge-length":
            request.update(12, list(struct.pack("<I", 2**31)))
        elif size == 0:
            request.update(12, list(struct.pack("<I", len(answer))))
        else:
            request.resolve(16, size).update(0, list(answer))
        client.complete(0, 0)


def main(scenario: str) -> None:
    testbed = UMockdev.Testbed.new()
    testbed.add_from_string(DEVICE)
    driver = Driver()
    driver.scenario = scenario
    testbed.attach_ioctl("/dev/dri/renderD128", driver)
    try:
        print("memory", local_memory("/dev/dri/renderD128", scenario.partition("-")[0]))
    except DrmQueryError as error:
        print("DrmQueryError", errno.errorcode[error.errno or 0], error.filename)
    testbed.detach_ioctl("/dev/dri/renderD128")


if __name__ == "__main__":
    main(sys.argv[1])
