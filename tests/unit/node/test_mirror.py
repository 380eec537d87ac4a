"""The desired-state file is as the node's object says, whoever wrote it last."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from reconciler.node import mirror as mirror_module
from reconciler.node.mirror import Mirror
from state.mirroring import OwnMetadata, OwnObject

ENTRY = {"name": "c1", "claimNamespace": "ml", "claimName": "job", "source": "resource.k8s.io/v1"}
OWN = OwnObject(metadata=OwnMetadata(name="n", uid="u1", generation=1), spec={"adoptedUID": "u1", "paused": True})


def test_no_object_leaves_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    file.write_text("anything")
    assert Mirror(file, lambda: None).check()
    assert file.read_text() == "anything"


def test_edits_of_the_file_are_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    mirror = Mirror(file, lambda: OWN)
    assert mirror.check()
    good = file.read_bytes()
    assert json.loads(good)["spec"] == {"adoptedUID": "u1", "paused": True}
    for damage in (b"", b"{", good.replace(b"true", b"false"), b"x" * (3 * 1024 * 1024)):
        file.write_bytes(damage)
        assert mirror.check()
        assert file.read_bytes() == good
    file.unlink()
    assert mirror.check()
    assert file.read_bytes() == good


def test_edits_do_not_take_away_what_only_the_file_says(tmp_path: Path) -> None:
    """An object that was made anew has no entries yet, so they can't be had from there again."""
    file, entries = tmp_path / "node.json", [ENTRY]
    own = replace(OWN, spec={"adoptedUID": "u1", "allocations": entries})
    mirror = Mirror(file, lambda: own)
    assert mirror.check()
    own = OwnObject(metadata=OwnMetadata(name="n", uid="u2", generation=1))
    for damage in (b"", b'{"spec": {"allocations": []}}', None):
        assert mirror.check()
        assert json.loads(file.read_bytes())["spec"] == {"allocations": entries}
        file.unlink()
        if damage is not None:
            file.write_bytes(damage)


def test_a_file_that_is_right_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    mirror = Mirror(file, lambda: OWN)
    mirror.check()
    before = file.stat()
    mirror.check()
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_full_disk_is_said_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    file = tmp_path / "node.json"
    mirror = Mirror(file, lambda: OWN)
    with monkeypatch.context() as patched:
        patched.setattr(mirror_module, "write_atomic", full)
        assert not mirror.check()
        assert not mirror.check()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        f"can't write the desired state, the last one stays in force: [Errno 28] No space left on device: '{file}'"
    ]
    assert mirror.check()
    assert file.exists()
