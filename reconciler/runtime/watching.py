"""Waking somebody when a file may have changed (inotify, through watchdog).

A file is watched through its directory, as writers replace files by renaming. An event is a hint to read the
file again, never a fact: some are lost (a full inotify queue, a limit reached), so readers must also look now
and then.
"""

import logging
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import ObservedWatch
from watchdog.observers.inotify import InotifyEmitter, InotifyObserver

# Neither Opened nor ClosedNoWrite: reading a file must not wake its reader. The kernel is not even asked for
# them.
_EVENTS: tuple[type[FileSystemEvent], ...] = (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """Files somebody reads: `names` in `directory`, or all names without a leading dot if None.

    A reader of a Kubernetes volume (ConfigMap, Secret) names `..data` too: the link that is swapped there.
    """

    directory: Path
    names: frozenset[str] | None
    wake: Callable[[], None]

    def concerned_by(self, path: Path) -> bool:
        """A change of `path` may change what is read: a file asked for, the directory, or a parent of it."""
        if path.parent == self.directory:
            return not path.name.startswith(".") if self.names is None else path.name in self.names
        return self.directory.is_relative_to(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Armed:
    identity: tuple[int, int]
    watch: ObservedWatch


class _PromptEmitter(InotifyEmitter):
    """Passes the halves of a renaming on as they come.

    watchdog's own may sleep for half a second when it sees the first half before the second has arrived, and
    everything behind waits for that. We need no pairs: either half says that a name may be another file now.
    """

    def on_thread_start(self) -> None:
        super().on_thread_start()
        assert self._inotify is not None
        self._inotify._move_event_grouper._queue.delay = 0.0


class _PromptObserver(InotifyObserver):
    def __init__(self) -> None:
        super().__init__()
        self._emitter_class = _PromptEmitter


class FileWatcher(FileSystemEventHandler):
    """Watches any number of directories, which may not exist yet, vanish, and come back.

    Callbacks run in watchdog's thread and must be brief. check() finds directories that appeared or were
    replaced: call it in each pass, BEFORE reading the files, so that nothing falls between. It costs two
    stat(2) a directory. Where the kernel grants no watch (limits, permissions) a warning is logged once and
    check() tries again; until then the reader's own timer has to do.
    """

    def __init__(self, interests: tuple[Interest, ...]) -> None:
        self._interests = tuple(interests)
        self._lock = threading.Lock()  # never taken in callbacks, which hold watchdog's own
        self._observer: InotifyObserver | None = None
        self._armed: dict[Path, _Armed] = {}
        self._vanished: set[Path] = set()
        self._warned: set[tuple[str, int]] = set()
        self._stopped = False

    def check(self) -> bool:
        """Watch what exists now; True if all that is wanted is watched. The first call starts watching."""
        with self._lock:
            if self._stopped or not self._observing():
                return False
            while True:  # until nothing changes: a directory made between looking and watching is found
                wanted = _anchors(self._interests)
                changed = self._drop_stale(wanted)
                complete = True
                for path, identity in wanted.items():
                    if path not in self._armed:
                        armed = self._arm(path, identity)
                        changed, complete = changed or armed, complete and armed
                if not changed:
                    return complete

    def stop(self) -> None:
        """End watching and wait for watchdog's threads."""
        with self._lock:
            observer, self._observer, self._stopped = self._observer, None, True
            self._armed.clear()
        if observer is not None:
            observer.stop()
            observer.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog."""
        paths = [Path(os.fsdecode(path)) for path in (event.src_path, event.dest_path) if path]
        if isinstance(event, DirDeletedEvent | DirMovedEvent):
            # Before waking, so that the check() of whoever is woken sees it.
            self._vanished.update(path for path in paths[:1] if self._leads_to_a_reader(path))
        for interest in self._interests:
            if any(interest.concerned_by(path) for path in paths):
                interest.wake()

    def _leads_to_a_reader(self, path: Path) -> bool:
        return any(interest.directory.is_relative_to(path) for interest in self._interests)

    def _observing(self) -> bool:
        if self._observer is None:
            try:
                self._observer = _PromptObserver()
                self._observer.start()
            except OSError as error:
                self._observer = None
                self._warn("inotify", error)
        return self._observer is not None

    def _drop_stale(self, wanted: dict[Path, tuple[int, int]]) -> bool:
        vanished = frozenset(self._vanished)
        self._vanished -= vanished
        # A directory made anew may get the old inode number, so its deletion counts on its own.
        stale = [p for p, armed in self._armed.items() if wanted.get(p) != armed.identity or p in vanished]
        for path in stale:
            assert self._observer is not None
            self._observer.unschedule(self._armed.pop(path).watch)
        return bool(stale)

    def _arm(self, path: Path, identity: tuple[int, int]) -> bool:
        assert self._observer is not None
        try:
            watch = self._observer.schedule(self, str(path), event_filter=list(_EVENTS), follow_symlink=True)
        except OSError as error:
            self._warn(str(path), error)
            return False
        self._armed[path] = _Armed(identity=identity, watch=watch)
        return True

    def _warn(self, what: str, error: OSError) -> None:
        if (what, error.errno or 0) not in self._warned:
            self._warned.add((what, error.errno or 0))
            _log.warning("cannot watch, polling instead", extra={"path": what}, exc_info=error)


def _anchors(interests: tuple[Interest, ...]) -> dict[Path, tuple[int, int]]:
    """What to watch: each directory, and the nearest existing one above, where it appears and vanishes."""
    anchors: dict[Path, tuple[int, int]] = {}
    for interest in interests:
        own = _identity(interest.directory)
        if own is not None:
            anchors[interest.directory] = own
        for parent in interest.directory.parents:
            identity = _identity(parent)
            if identity is not None:
                anchors[parent] = identity
                break
    return anchors


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None
