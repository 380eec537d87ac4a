"""Who is registered, and what the kubelet plugin is told of the API server."""

import fcntl
from pathlib import Path

import pytest

from reconciler.node.slice_registration import ServerInfoFiles, is_registered
from state.server_info import decode_server_info
from state.server_rows import SERVER_ROWS

INFO = SERVER_ROWS[0].info("gpu.intel.com")


def test_registered_is_who_holds_the_lock(tmp_path: Path) -> None:
    assert not is_registered(tmp_path, "gpu.intel.com")
    with (tmp_path / "registered-gpu.intel.com").open("w") as file:
        assert not is_registered(tmp_path, "gpu.intel.com")
        fcntl.flock(file, fcntl.LOCK_SH)
        assert is_registered(tmp_path, "gpu.intel.com")
        assert not is_registered(tmp_path, "gpu.dra.intel.com")
    assert not is_registered(tmp_path, "gpu.intel.com")


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "registered-gpu.intel.com").symlink_to("/dev/null")
    assert not is_registered(tmp_path, "gpu.intel.com")


def test_the_plugin_is_told_now_and_after_a_boot(tmp_path: Path) -> None:
    current, lasting = tmp_path / "run.json", tmp_path / "lib.json"
    files = ServerInfoFiles(current, lasting)
    files.recall()
    assert not current.exists()
    files.store(INFO)
    assert decode_server_info(current.read_bytes()) == decode_server_info(lasting.read_bytes()) == INFO
    written = current.stat().st_mtime_ns, lasting.stat().st_ino
    files.store(INFO)
    assert (current.stat().st_mtime_ns, lasting.stat().st_ino) == written
    current.unlink()
    ServerInfoFiles(current, lasting).recall()
    assert decode_server_info(current.read_bytes()) == INFO


def test_a_full_disk_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = ServerInfoFiles(tmp_path / "run.json", tmp_path / "absent" / "lib.json")
    files.store(INFO)
    assert (tmp_path / "run.json").exists()
    assert "can't be told" in caplog.text
