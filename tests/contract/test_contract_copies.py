"""The copies in `tests/contracts` equal the contract files they were made from."""

import gzip

import pytest

from tests.contract_files import ORIGINALS, copied_paths, copy_of

needs_originals = pytest.mark.skipif(not ORIGINALS.is_dir(), reason="no ../shared/contracts beside the repository")


def test_the_copies_tests_build_on_are_there() -> None:
    assert {
        "cdi/defs.json",
        "cdi/schema.json",
        "hardware/devices.yaml",
        "hardware/sriov-profiles.yaml",
        "hardware/upstream-models.yaml",
    } <= set(copied_paths())


@needs_originals
@pytest.mark.parametrize("path", copied_paths())
def test_a_copy_equals_its_original(path: str) -> None:
    assert gzip.decompress(copy_of(path).read_bytes()) == (ORIGINALS / path).read_bytes()


@pytest.mark.parametrize("path", copied_paths())
def test_a_copy_carries_neither_time_nor_file_name(path: str) -> None:
    """Otherwise renewing an unchanged copy would change it (RFC 1952: FLG is byte 3, MTIME bytes 4 to 7)."""
    assert copy_of(path).read_bytes()[3:8] == bytes(5)
