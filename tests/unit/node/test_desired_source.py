from pathlib import Path

import pytest

from reconciler.node.desired_source import FileSource, Sourced, read_desired
from reconciler.runtime.files import FileRefused
from state.manifest_decoding import ManifestError

HEAD = "apiVersion: gpu.dra.intel.com/v1alpha1\nkind: GpuNodeState\n"


def test_nothing_is_in_force_before_a_good_file_was_read(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "node.yaml", cluster=False)
    first = source.latest()
    assert first.state is None
    assert first.error is not None
    assert "node.yaml" in first.error
    (tmp_path / "node.yaml").write_text("kind: Pod\n")
    assert source.latest().state is None


@pytest.mark.parametrize(
    "bad", [HEAD + "spec: {pause: true}", "{", "", "\0"], ids=["field", "yaml", "empty", "nul"]
)
def test_the_last_good_state_stays_in_force_until_the_file_is_good_again(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(HEAD + "spec: {paused: true}")
    source = FileSource(path, cluster=False)
    good = source.latest()
    assert good.error is None
    path.write_text(bad)
    broken = source.latest()
    assert broken.state == good.state
    assert broken.error is not None
    assert source.latest() == broken  # the same content gives the same answer
    path.unlink()
    assert source.latest().state == good.state
    path.write_text(HEAD + "spec: {paused: false}")
    mended = source.latest()
    assert mended.error is None
    assert mended.state is not None
    assert not mended.state.spec.paused


def test_the_error_names_the_file_and_the_field(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(HEAD + "spec: {overrides: [{device: x, mode: Fix}]}")
    error = FileSource(path, cluster=False).latest().error
    assert error is not None
    assert error.startswith(f"{path}: spec.overrides[0].mode: ")
    assert "Fixed" in error


def test_reading_once_raises(tmp_path: Path) -> None:
    with pytest.raises(FileRefused):
        read_desired(tmp_path / "absent", cluster=False)
    (tmp_path / "node.yaml").write_text("kind: Pod")
    with pytest.raises(ManifestError):
        read_desired(tmp_path / "node.yaml", cluster=False)


def test_in_a_cluster_a_file_that_is_not_there_yet_is_nobodys_mistake(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "node.json", cluster=True)
    assert source.latest() == Sourced(state=None)
    (tmp_path / "node.json").write_text("{")
    assert source.latest().error is not None
