"""Signals, and how a process of several threads ends: asked to, because a thread died, or too slowly.

The main thread blocks the signals before any other thread starts (they inherit the mask) and then does
nothing but wait for them, so no code is ever interrupted half-way. A child process inherits the blocked
signals too.
"""

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from enum import Enum

HANDLED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""What daemons here react to."""

_log = logging.getLogger(__name__)


class After(Enum):
    """What to do once a signal was dealt with."""

    GO_ON = "go on"
    END = "end"


def block_signals(numbers: frozenset[signal.Signals] = HANDLED) -> None:
    """Keep signals pending until wait_for_signals() takes them. Call in the main thread before starting
    others.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def wait_for_signals(
    actions: Mapping[signal.Signals, Callable[[], After]], *, timeout: float | None = None
) -> signal.Signals | None:
    """Wait for blocked signals and call their actions, until one says END; returns that signal.

    None: `timeout` seconds went by first. Signals not in `actions` stay pending.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        if deadline is None:
            number = signal.sigwait(actions.keys())
        else:
            info = signal.sigtimedwait(actions.keys(), max(0.0, deadline - time.monotonic()))
            if info is None:
                return None
            number = signal.Signals(info.si_signo)
        if actions[signal.Signals(number)]() is After.END:
            return signal.Signals(number)


def dump_stacks_on(number: signal.Signals = signal.SIGUSR1) -> None:
    """Write the stacks of all threads to stderr when the signal comes: works even in a process that hangs."""
    faulthandler.register(number, all_threads=True, chain=False)


class Essentials:
    """Threads without which the process is of no use. If one ends before expect_end(), the process is told
    to.

    "Told" is a SIGTERM to itself, so there is one way down; the exit status then comes from `failed`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ending = False
        self._failed: str | None = None
        self._threads: list[threading.Thread] = []

    @property
    def failed(self) -> str | None:
        """Name of the first thread that ended too early, with its error."""
        with self._lock:
            return self._failed

    def start(self, name: str, target: Callable[[], None]) -> None:
        """Start a thread running `target`. It is a daemon thread: one that hangs can't keep the process
        alive.
        """
        thread = threading.Thread(target=self._run, args=(name, target), name=name, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def crashed(self, error: BaseException) -> None:
        """Something that was started elsewhere, but is just as essential, has ended of an error."""
        with self._lock:
            if self._failed is None:
                self._failed = repr(error)
            too_early = not self._ending
        if too_early:
            os.kill(os.getpid(), signal.SIGTERM)

    def expect_end(self) -> None:
        """From now on threads may end."""
        with self._lock:
            self._ending = True

    def join(self, timeout: float) -> tuple[str, ...]:
        """Wait for all threads, `timeout` seconds altogether; returns the names of those still running."""
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return tuple(thread.name for thread in threads if thread.is_alive())

    def _run(self, name: str, target: Callable[[], None]) -> None:
        error: BaseException | None = None
        try:
            target()
        except BaseException as caught:  # noqa: BLE001  (whatever it was, the process must hear of it)
            error = caught
        with self._lock:
            too_early = not self._ending
            if self._failed is None and (error is not None or too_early):
                self._failed = f"{name}: {error!r}" if error is not None else f"{name}: ended by itself"
        try:
            if error is not None or too_early:
                _log.critical("an essential thread ended", exc_info=error, extra={"essential": name})
        finally:
            if too_early:
                os.kill(os.getpid(), signal.SIGTERM)


class HardExit:
    """Ends the process `grace` seconds from now, whatever it is doing, unless cancelled first.

    While `busy` says so (a kernel write that must not be cut) the end is put off, and `grace` starts anew
    afterwards.
    """

    def __init__(
        self, grace: float, *, status: int, busy: Callable[[], bool] = lambda: False, every: float = 0.05
    ) -> None:
        self._grace = grace
        self._status = status
        self._busy = busy
        self._every = every
        self._cancelled = threading.Event()
        threading.Thread(target=self._run, name="hard-exit", daemon=True).start()

    def cancel(self) -> None:
        """The process came to its end by itself."""
        self._cancelled.set()

    def _run(self) -> None:
        while not self._cancelled.wait(self._grace):
            if not self._busy():
                faulthandler.dump_traceback()
                os._exit(self._status)
            while self._busy():
                if self._cancelled.wait(self._every):
                    return
