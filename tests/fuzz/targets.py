"""What is fuzzed: each target takes any bytes, and raises only for a defect.

Errors that a reader is documented to raise are its answer to bad input and end here. Whatever else comes out, an
answer that breaks a promise of its docstring, too much memory or too much time is what fuzzing looks for.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from reconciler.node import agent, cdi_dir, drm_query, manifest_file, running, tables
from reconciler.runtime.uevents import to_uevent
from state import manifest_decoding, record_coding, status
from state.ids import parse_pci_address
from state.observed import CdiFileSeen, Unreadable
from state.records import Held, Mark, Ownership
from tests.fuzz.hostile_tree import HostileTree

OneInput = Callable[[bytes], None]
Target = Callable[[Path], OneInput]
"""Takes an empty directory to work in."""


def manifest(_: Path) -> OneInput:
    """The desired-state file, of a person and of a mirror."""

    def read(data: bytes) -> None:
        try:
            plain = manifest_file.parse_manifest(data, "file")
        except manifest_file.ManifestFileError:
            return
        for cluster in (False, True):
            with contextlib.suppress(manifest_decoding.ManifestError):
                state = manifest_decoding.decode(plain, cluster=cluster)
                again = manifest_file.parse_manifest(manifest_file.dump_manifest(state).encode(), "dumped")
                assert manifest_decoding.decode(again, cluster=cluster) == state, "it changes when it is written"

    return read


def status_file(_: Path) -> OneInput:
    def read(data: bytes) -> None:
        with contextlib.suppress(status.StatusError):
            file = status.decode_status(data)
            assert status.decode_status(status.encode_status(file)) == file, "it changes when it is written"

    return read


def records(_: Path) -> OneInput:
    """The ownership record, the held record and marks."""

    def read(data: bytes) -> None:
        _read_record(data, Ownership)
        _read_record(data, Held)
        _read_record(data, Mark)

    return read


def _read_record(data: bytes, kind: type[record_coding.Record]) -> None:
    with contextlib.suppress(record_coding.RecordError):
        written = record_coding.encode_record(record_coding.decode_record(data, kind))
        assert record_coding.encode_record(record_coding.decode_record(written, kind)) == written


def uevents(_: Path) -> OneInput:
    """An event's properties, and what the daemon makes of them."""

    def hear(data: bytes) -> None:
        pairs = (pair.partition("=") for pair in data.decode("utf-8", "surrogateescape").split("\0"))
        address = running._address_of(to_uevent({name: value for name, _, value in pairs if name}))
        if address is not None:
            topic = f"{agent.PCI}{address}"
            assert parse_pci_address(topic.removeprefix(agent.PCI)) == address

    return hear


def drm(_: Path) -> OneInput:
    """What a DRM driver says about its memory."""

    def decode(data: bytes) -> None:
        for decoder in (drm_query.decode_i915, drm_query.decode_xe):
            with contextlib.suppress(drm_query.DrmQueryError):
                assert decoder(data) >= 0

    return decode


def pci_ids(_: Path) -> OneInput:
    def decode(data: bytes) -> None:
        for number, name in tables.decode_pci_ids(data).items():
            assert 0 <= number <= 0xFFFF
            assert name == name.strip()
            assert "\n" not in name

    return decode


def cdi(where: Path) -> OneInput:
    """A directory of CDI specs in which some are ours and all are strange. Line by line: kind, name, content."""

    def observe(data: bytes) -> None:
        directory = where / "cdi"
        directory.mkdir()
        try:
            for line in data.split(b"\n")[:8]:
                _put(directory, line)
            seen = cdi_dir.observe_cdi(str(directory))
            assert isinstance(seen, tuple), seen
            names = [file.name for file in seen]
            assert names == sorted(set(names))
            assert set(names) <= set(os.listdir(directory))
            assert all(_is_sound(file) for file in seen)
        finally:
            shutil.rmtree(directory)

    return observe


def _put(directory: Path, line: bytes) -> None:
    """Make one thing in the directory, as far as the file system allows its name."""
    kind, _, rest = line.partition(b" ")
    name, _, content = rest.partition(b" ")
    path = os.path.join(os.fsencode(directory), b"intel.com-gpu_alloc-" + name.replace(b"/", b"_") + b".json")
    with contextlib.suppress(OSError, ValueError):
        match kind:
            case b"dir":
                os.mkdir(path)
            case b"fifo":
                os.mkfifo(path)
            case b"link":
                os.symlink(content, path)
            case b"big":
                with open(path, "xb") as file:
                    file.truncate(2**40)
            case b"deep":
                _write_new(path, b'{"x":' + b"[" * 100_000 + content)
            case _:
                _write_new(path, content)


def _write_new(path: bytes, content: bytes) -> None:
    """Never to what is there already: a FIFO would hang us, a link lead out of the directory."""
    with open(path, "xb") as file:
        file.write(content)


def _is_sound(file: CdiFileSeen) -> bool:
    if isinstance(file.content, Unreadable):
        return bool(file.content.why)
    return len(file.content) <= cdi_dir.SIZE_LIMIT


def sysfs(where: Path) -> OneInput:
    """Whole passes of an agent that looks at sysfs with hostile contents."""
    return HostileTree(where).one_pass


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "manifest": manifest,
        "status": status_file,
        "records": records,
        "uevents": uevents,
        "drm": drm,
        "pci_ids": pci_ids,
        "cdi": cdi,
        "sysfs": sysfs,
    }
)
