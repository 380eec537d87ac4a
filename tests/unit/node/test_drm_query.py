"""Sizes of local memory out of the drivers' answers."""

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.node.drm_query import DrmQueryError, decode_i915, decode_xe, local_memory

SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages/gi")
TESTBED = Path(__file__).with_name("drm_testbed.py")

REGION = struct.Struct("<HH4xQ72x")


def i915_answer(*regions: tuple[int, int]) -> bytes:
    return struct.pack("<I12x", len(regions)) + b"".join(REGION.pack(kind, 0, size) for kind, size in regions)


def xe_answer(*regions: tuple[int, int]) -> bytes:
    return struct.pack("<I4x", len(regions)) + b"".join(REGION.pack(kind, 0, size) for kind, size in regions)


def test_only_device_memory_counts_and_tiles_add_up() -> None:
    assert decode_i915(i915_answer((0, 64 << 30), (1, 16 << 30), (1, 16 << 30))) == 32 << 30
    assert decode_xe(xe_answer((0, 64 << 30), (1, 24 << 30))) == 24 << 30


def test_gpus_without_memory_of_their_own_have_none() -> None:
    assert decode_i915(i915_answer((0, 64 << 30))) == 0
    assert decode_xe(xe_answer()) == 0


def test_a_size_the_kernel_does_not_know_is_not_counted() -> None:
    assert decode_i915(i915_answer((1, 2**64 - 1))) == 0


@pytest.mark.parametrize("decode", [decode_i915, decode_xe])
@pytest.mark.parametrize(
    "answer", [b"", b"\1", struct.pack("<I12x", 1), struct.pack("<I12x", 2**32 - 1) + bytes(880)]
)
def test_truncated_and_hostile_counts_are_refused(decode: Callable[[bytes], int], answer: bytes) -> None:
    with pytest.raises(DrmQueryError, match="memory query"):
        decode(answer)


@given(st.binary(max_size=1000))
def test_any_bytes_are_decoded_or_refused(answer: bytes) -> None:
    for decode in (decode_i915, decode_xe):
        try:
            total = decode(answer)
        except DrmQueryError:
            continue
        assert 0 <= total < 2**64 * (len(answer) // REGION.size + 1)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 2)), max_size=20), st.integers(1, 88))
def test_a_cut_answer_is_refused(regions: list[tuple[int, int]], cut: int) -> None:
    whole = xe_answer(*regions)
    assert decode_xe(whole) == sum(size for kind, size in regions if kind == 1)
    if regions:
        with pytest.raises(DrmQueryError, match="do not fit"):
            decode_xe(whole[: len(whole) - cut])


@pytest.mark.parametrize("driver", ["i915", "xe"])
def test_a_node_that_is_no_gpu_gives_errno_and_path(driver: str) -> None:
    with pytest.raises(DrmQueryError, match="/dev/null"):
        local_memory("/dev/null", driver)


def test_an_absent_node_and_an_unknown_driver(tmp_path: Path) -> None:
    with pytest.raises(DrmQueryError, match="absent"):
        local_memory(f"{tmp_path}/absent", "xe")
    with pytest.raises(DrmQueryError, match="vfio-pci"):
        local_memory("/dev/null", "vfio-pci")


def _why_no_testbed() -> str | None:
    if shutil.which("umockdev-wrapper") is None:
        return "needs umockdev-wrapper (Debian package umockdev)"
    if not SYSTEM_PACKAGES.is_dir():
        return "needs Debian's python3-gi and gir1.2-umockdev-1.0"
    return None


@pytest.mark.parametrize(
    ("scenario", "printed"),
    [
        ("i915", "memory 34359738368"),
        ("xe", "memory 25669140480"),
        ("i915-interrupted", "memory 34359738368"),
        ("i915-refuses", "DrmQueryError EINVAL /dev/dri/renderD128"),
        ("xe-refuses", "DrmQueryError EPERM /dev/dri/renderD128"),
        ("xe-huge-length", "DrmQueryError EBADMSG /dev/dri/renderD128"),
        ("xe-hostile-count", "DrmQueryError EBADMSG /dev/dri/renderD128"),
    ],
)
def test_real_ioctl_calls_against_simulated_drivers(scenario: str, printed: str, tmp_path: Path) -> None:
    if why := _why_no_testbed():
        pytest.skip(why)
    os.symlink(SYSTEM_PACKAGES, tmp_path / "gi")
    done = subprocess.run(
        ["umockdev-wrapper", sys.executable, str(TESTBED), scenario],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{TESTBED.parents[3]}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "No module named" in done.stderr or "Namespace UMockdev not available" in done.stderr:
        pytest.skip(f"Debian's gi does not work with this Python: {done.stderr.splitlines()[-1]}")
    assert done.stdout.strip() == printed, done.stderr
