"""Which source of the memory size wins, and how long it is believed."""

import os
from pathlib import Path

import pytest

from reconciler.node import memory
from reconciler.node.drm_query import DrmQueryError
from reconciler.node.memory import MemoryReader, bar_size
from state.ids import DeviceName
from state.observed import DeviceNode, MemorySeen, MemorySource, Unreadable

GPU = DeviceName("0000-03-00-0-0xe20b")
DRM = (
    DeviceNode(path="dri/card0", major=226, minor=0),
    DeviceNode(path="dri/renderD128", major=226, minor=128),
)
BAR_16_GIB = "0x0 0x0 0x0\n0x0 0x0 0x0\n0x0000004000000000 0x00000043ffffffff 0x000000000014220c\n"


class Driver:
    """Stands for the DRM driver behind the nodes, and counts how often it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: int | None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answer = answer
        monkeypatch.setattr(memory, "local_memory", self._query)
        monkeypatch.setattr(memory, "_is_character_device", os.path.exists)

    def _query(self, node: str, driver: str) -> int:
        self.asked.append((node.rpartition("/")[2], driver))
        if self.answer is None:
            raise DrmQueryError(1, "Operation not permitted", node)
        return self.answer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A function in sysfs with a 16 GiB BAR, and its nodes in devfs."""
    (tmp_path / "sys/drm/card0").mkdir(parents=True)
    (tmp_path / "sys/resource").write_text(BAR_16_GIB)
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/card0").touch()
    (tmp_path / "dev/dri/renderD128").touch()
    return tmp_path


def read(reader: MemoryReader, directory: Path, driver: str | None = "xe") -> MemorySeen | None:
    problems: list[Unreadable] = []
    seen = reader.read(GPU, f"{directory}/sys", driver, DRM if driver in ("xe", "i915") else (), problems)
    assert problems == []
    return seen


def test_sysfs_wins_and_nobody_is_asked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, 1 << 30)
    (directory / "sys/drm/card0/lmem_total_bytes").write_text("17045651456\n")
    seen = read(MemoryReader(f"{directory}/dev"), directory, "i915")
    assert seen == MemorySeen(total=17045651456, source=MemorySource.SYSFS)
    assert driver.asked == []


def test_the_driver_is_asked_once_a_binding(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, 12216 << 20)
    reader = MemoryReader(f"{directory}/dev")
    for _ in range(3):
        assert read(reader, directory) == MemorySeen(total=12216 << 20, source=MemorySource.IOCTL)
    assert driver.asked == [("renderD128", "xe")]
    assert read(reader, directory, "vfio-pci") == MemorySeen(total=8 << 30, source=MemorySource.BAR)
    read(reader, directory)
    assert driver.asked == [("renderD128", "xe")] * 2
    read(reader, directory, "i915")
    assert driver.asked[2:] == [("renderD128", "i915")]
    reader.forget(GPU)
    read(reader, directory, "i915")
    assert len(driver.asked) == 4


def test_a_refusal_is_not_remembered_and_the_bar_is_half_believed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(monkeypatch, None)
    reader = MemoryReader(f"{directory}/dev")
    seen = read(reader, directory)
    assert seen == MemorySeen(total=8 << 30, source=MemorySource.BAR)
    assert not seen.exact
    assert [node for node, _ in driver.asked] == ["renderD128", "card0"]
    driver.answer = 12 << 30
    assert read(reader, directory) == MemorySeen(total=12 << 30, source=MemorySource.IOCTL)


def test_files_in_place_of_nodes_are_not_asked(directory: Path) -> None:
    assert read(MemoryReader(f"{directory}/dev"), directory) == MemorySeen(total=8 << 30, source=MemorySource.BAR)


def test_zero_is_no_size(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, 0)
    (directory / "sys/drm/card0/lmem_total_bytes").write_text("0\n")
    (directory / "sys/resource").write_text("0x0 0x0 0x0\n" * 13)
    assert read(MemoryReader(f"{directory}/dev"), directory) is None
    (directory / "sys/resource").unlink()
    assert read(MemoryReader(f"{directory}/dev"), directory) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (BAR_16_GIB, 16 << 30),
        ("", None),
        ("0x0 0x0 0x0\n" * 13, None),
        ("0x0 0x0 0x0\n" * 2 + "0x2000 0x1000 0x200\n", None),
        ("0x0 0x0 0x0\n" * 2 + "0x1000 0x1fff 0x100\n", None),
    ],
)
def test_size_of_the_memory_bar(text: str, size: int | None) -> None:
    assert bar_size(text, 2) == size


@pytest.mark.parametrize("line", ["0x0 0x0", "a b c", "-0x1 0x2 0x200", "0x11111111111111111 0x2 0x200"])
def test_a_garbled_bar_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"0x|a b c"):
        bar_size("\n\n" + line, 2)
