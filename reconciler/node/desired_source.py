"""Where the loop gets the desired state from: one file, with the last good state kept while it is broken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reconciler.node.manifest_file import LARGEST_FILE, ManifestFileError, parse_manifest
from reconciler.runtime.files import FileRefused, read_bounded
from state.manifest import NodeState
from state.manifest_decoding import ManifestError, decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """The desired state in force (None: none was ever read), and why the newest file is not it, if so."""

    state: NodeState | None
    error: str | None = None


def read_desired(path: Path, *, cluster: bool) -> NodeState:
    """The desired state in a file. Raises FileRefused, ManifestFileError and ManifestError."""
    return decode(parse_manifest(read_bounded(path, LARGEST_FILE, follow=True), str(path)), cluster=cluster)


class FileSource:
    """The desired-state file. A mirror's file may hold the controller's entries, a person's may not."""

    def __init__(self, path: Path, *, cluster: bool) -> None:
        self._path = path
        self._cluster = cluster
        self._raw: bytes | None = None
        self._sourced = Sourced(state=None, error=None if cluster else f"{path}: not read yet")

    def latest(self) -> Sourced:
        """Read the file, unless it still has the same content."""
        try:
            raw = read_bounded(self._path, LARGEST_FILE, follow=True)
        except FileRefused as error:
            self._raw = None
            # The mirror has yet to write it, or is about to write it again: nobody has done anything wrong.
            nothing_wrong = self._cluster and error.absent
            self._sourced = Sourced(state=self._sourced.state, error=None if nothing_wrong else str(error))
            return self._sourced
        if raw != self._raw:
            self._raw = raw
            self._sourced = self._parse(raw)
        return self._sourced

    def _parse(self, raw: bytes) -> Sourced:
        try:
            state = decode(parse_manifest(raw, str(self._path)), cluster=self._cluster)
        except ManifestFileError as error:
            return Sourced(state=self._sourced.state, error=str(error))
        except ManifestError as error:
            return Sourced(state=self._sourced.state, error=f"{self._path}: {error}")
        return Sourced(state=state)
