"""The size of a GPU's local memory, asked of its DRM driver through a device node.

Structures and numbers are those of the kernel's uapi headers i915_drm.h and xe_drm.h. Decoding is pure and
trusts no length; only ``local_memory`` does I/O.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable

I915_QUERY = 0xC0106479
"""DRM_IOCTL_I915_QUERY"""
XE_DEVICE_QUERY = 0xC0286440
"""DRM_IOCTL_XE_DEVICE_QUERY"""

_I915_MEMORY_REGIONS = 4
_XE_MEMORY_REGIONS = 1
_DEVICE_MEMORY = 1
"""The memory class of a device's own memory, in both drivers."""
_MOST_BYTES = 64 * 1024
"""More than any driver has to say about memory regions."""
_TRIES = 100
_NOT_KNOWN = 2**64 - 1

_I915_REQUEST = struct.Struct("<IIQ")  # num_items, flags, items_ptr
_I915_ITEM = struct.Struct("<QiIQ")  # query_id, length, flags, data_ptr
_I915_HEADER = struct.Struct("<I12x")  # num_regions
_I915_REGION = struct.Struct("<HH4xQ72x")  # class, instance, probed_size
_XE_REQUEST = struct.Struct("<QIIQ16x")  # extensions, query, size, data
_XE_HEADER = struct.Struct("<I4x")  # num_mem_regions
_XE_REGION = struct.Struct("<HH4xQ72x")  # mem_class, instance, total_size


class DrmQueryError(OSError):
    """The driver gave no sensible answer about its memory."""


def local_memory(node: str, driver: str) -> int:
    """Bytes of local memory of the GPU behind the DRM node ``node``; 0 for a GPU without.

    Raises DrmQueryError with the node's path, for an unknown ``driver`` too.
    """
    queries = {"i915": _query_i915, "xe": _query_xe}
    if driver not in queries:
        raise DrmQueryError(errno.EOPNOTSUPP, f"no memory query for driver {driver}", node)
    try:
        descriptor = os.open(node, os.O_RDWR)
        try:
            return queries[driver](descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DrmQueryError(error.errno, error.strerror, node) from error


def decode_i915(answer: bytes) -> int:
    """Bytes of device memory in an answer to DRM_I915_QUERY_MEMORY_REGIONS. Raises DrmQueryError."""
    return _sum_of_regions(answer, _I915_HEADER, _I915_REGION)


def decode_xe(answer: bytes) -> int:
    """Bytes of VRAM in an answer to DRM_XE_DEVICE_QUERY_MEM_REGIONS. Raises DrmQueryError."""
    return _sum_of_regions(answer, _XE_HEADER, _XE_REGION)


def _sum_of_regions(answer: bytes, header: struct.Struct, region: struct.Struct) -> int:
    if len(answer) < header.size:
        raise DrmQueryError(errno.EBADMSG, f"memory query: answer of {len(answer)} bytes is too short")
    (count,) = header.unpack_from(answer)
    if count > (len(answer) - header.size) // region.size:
        raise DrmQueryError(errno.EBADMSG, f"memory query: {count} regions do not fit {len(answer)} bytes")
    total = 0
    for index in range(count):
        kind, _, size = region.unpack_from(answer, header.size + index * region.size)
        if kind == _DEVICE_MEMORY and size != _NOT_KNOWN:
            total += size
    return total


def _query_i915(descriptor: int) -> int:
    def ask(length: int, address: int) -> int:
        item = ctypes.create_string_buffer(
            _I915_ITEM.pack(_I915_MEMORY_REGIONS, length, 0, address), _I915_ITEM.size
        )
        _ioctl(descriptor, I915_QUERY, bytearray(_I915_REQUEST.pack(1, 0, ctypes.addressof(item))))
        answered: int = _I915_ITEM.unpack(item.raw)[1]
        if answered < 0:
            raise DrmQueryError(-answered, os.strerror(-answered))
        return answered

    return decode_i915(_answer(ask))


def _query_xe(descriptor: int) -> int:
    def ask(length: int, address: int) -> int:
        request = bytearray(_XE_REQUEST.pack(0, _XE_MEMORY_REGIONS, length, address))
        _ioctl(descriptor, XE_DEVICE_QUERY, request)
        answered: int = _XE_REQUEST.unpack(request)[2]
        return answered

    return decode_xe(_answer(ask))


def _answer(ask: Callable[[int, int], int]) -> bytes:
    """Both drivers are asked twice: for the length with length 0, then for the data."""
    length = ask(0, 0)
    if not 0 < length <= _MOST_BYTES:
        raise DrmQueryError(errno.EBADMSG, f"memory query: implausible length {length}")
    buffer = ctypes.create_string_buffer(length)
    answered = ask(length, ctypes.addressof(buffer))
    return buffer.raw[: min(answered, length)]


def _ioctl(descriptor: int, number: int, argument: bytearray) -> None:
    """As libdrm does it: again when interrupted."""
    for _ in range(_TRIES):
        try:
            fcntl.ioctl(descriptor, number, argument)
        except OSError as error:
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                raise
        else:
            return
    raise DrmQueryError(errno.EAGAIN, f"memory query: interrupted {_TRIES} times")
