"""The warm process: everything imported, all tables loaded, it forks one product process after the other.

It reads orders from its standard input, one JSON object a line, and answers each with one.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from hack.crashing.engine import Order, live
from hack.crashing.mutations import CrashPoint, Mutations
from reconciler.node.tables import Tables, load_tables


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One life of a product process: where, how, and what ends it early, if anything."""

    where: str
    cluster: bool = False
    threads: bool = False
    number: int | None = None
    after: bool = False
    kill_after: float | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended: exit status (negative: by that signal), the changing calls it made, what it logged."""

    status: int
    calls: tuple[str, ...]
    log: str


@dataclass(slots=True)
class Warm:
    """The warm process, for those who want lives lived. A context manager."""

    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Warm:
        command = [sys.executable, "-m", "hack.crashing.warm"]
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.communicate()

    def send(self, errand: Errand) -> Ended:
        """Have one life lived. Raises EOFError if the warm process is gone."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(errand) + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise EOFError("the warm process has ended")
        return msgspec.json.decode(answer, type=Ended)


def _child(errand: Errand, tables: Tables, report: Path) -> int:
    """The product process. Returns its exit status, if it lives to see it."""
    at = None if errand.number is None else CrashPoint(number=errand.number, after=errand.after)
    descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    write = os.write

    def tell(calls: list[str]) -> None:
        write(descriptor, json.dumps(calls).encode())

    mutations = Mutations(at, tell)
    mutations.install()
    try:
        live(Order(where=Path(errand.where), cluster=errand.cluster, threads=errand.threads), tables)
    except BaseException:  # noqa: BLE001  whatever it is, the log shows it
        traceback.print_exc()
        return 1
    tell(mutations.calls)
    return 0


def _fork(errand: Errand, tables: Tables) -> Ended:
    report, log = Path(errand.where, "calls.json"), Path(errand.where, "child.log")
    report.unlink(missing_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    pid = os.fork()
    if pid == 0:
        os.dup2(descriptor, 2)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        status = _child(errand, tables, report)
        sys.stderr.flush()
        os._exit(status)
    os.close(descriptor)
    if errand.kill_after is not None:
        signal.sigtimedwait({signal.SIGCHLD}, errand.kill_after)
        os.kill(pid, signal.SIGKILL)  # not waited for yet, so the id is still this child's
    _, ended = os.waitpid(pid, 0)
    text = report.read_text() if report.exists() else ""
    calls = tuple(json.loads(text)) if text else ()
    return Ended(status=os.waitstatus_to_exitcode(ended), calls=calls, log=log.read_text())


def main() -> None:
    """Live until the input ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    logging.basicConfig(level=logging.WARNING)
    tables = load_tables("/nonexistent/pci.ids")
    for line in sys.stdin.buffer:
        answer = _fork(msgspec.json.decode(line, type=Errand), tables)
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
