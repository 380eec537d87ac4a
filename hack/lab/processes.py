"""The product's processes, as a cluster would start them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60.0
"""Seconds until somebody gives up waiting. Nothing here takes more than a few."""

_EVERY = 0.02
_Found = TypeVar("_Found")


class GaveUp(AssertionError):
    """Something that was waited for did not happen."""


def eventually(what: str, look: Callable[[], _Found | None], complain: Callable[[], str] = str) -> _Found:
    """Look until something is found. Raises GaveUp after PATIENCE, with the complaint."""
    deadline = time.monotonic() + PATIENCE
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise GaveUp(f"never {what}: {complain()}")
        time.sleep(_EVERY)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One process of the product, and what it logs."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def until_logged(self, words: str) -> None:
        """Wait until these words are in its log."""
        eventually(f"logged {words!r}", lambda: words in self.log or None, lambda: self.log)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def running(words: tuple[str, ...], environment: Mapping[str, str], log_file: Path) -> Iterator[Daemon]:
    """A process while the context lasts; one that is still there then is told to end."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "reconciler.cli", *words),
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    with ended(process):
        yield Daemon(process=process, log_file=log_file)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A process that is still there when the context ends is told to end, and killed if it doesn't."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
