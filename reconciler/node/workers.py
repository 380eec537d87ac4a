"""One worker for each GPU that is being changed, so that a slow or hanging GPU holds up no other."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from reconciler.node.apply_host import ApplyFailed, ApplyHost
from reconciler.node.applying import Applied, Step, apply_all, doing
from state.actions import Action, GpuAction
from state.ids import DeviceName
from state.observed import PfSeen

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker is at: its action in words, since when, and all the actions it was given."""

    doing: str
    since: datetime
    actions: tuple[GpuAction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of one GPU's actions."""

    pf: DeviceName
    applied: Applied


class Workers(Protocol):
    """Carries out actions, at most one list a GPU at a time."""

    def busy(self) -> Mapping[DeviceName, Job]:
        """The GPUs that are being changed now."""

    def start(self, gpu: PfSeen, actions: Sequence[GpuAction], now: datetime) -> None:
        """Begin the actions of one GPU, which must not be busy."""

    def results(self) -> tuple[Result, ...]:
        """What has ended since the last call."""


class ThreadWorkers:
    """Workers as threads. ``ended`` is called from them whenever one is done."""

    def __init__(
        self, host: ApplyHost, ended: Callable[[DeviceName], None], stepped: Callable[[Step], None]
    ) -> None:
        self._host = host
        self._ended = ended
        self._stepped = stepped
        self._lock = threading.Lock()
        self._jobs: dict[DeviceName, Job] = {}
        self._threads: dict[DeviceName, threading.Thread] = {}
        self._results: list[Result] = []

    def busy(self) -> Mapping[DeviceName, Job]:
        """The GPUs that are being changed now."""
        with self._lock:
            return dict(self._jobs)

    def start(self, gpu: PfSeen, actions: Sequence[GpuAction], now: datetime) -> None:
        """Begin the actions of one GPU, which must not be busy."""
        thread = threading.Thread(
            target=self._run, args=(gpu, tuple(actions), now), name=f"gpu-{gpu.name}", daemon=True
        )
        with self._lock:
            if gpu.name in self._jobs:
                raise ValueError(f"{gpu.name} is being changed already")
            job = Job(doing=doing(actions[0], gpu), since=now, actions=tuple(actions))
            self._jobs[gpu.name] = job
            self._threads[gpu.name] = thread
        thread.start()

    def results(self) -> tuple[Result, ...]:
        """What has ended since the last call."""
        with self._lock:
            results, self._results = tuple(self._results), []
            return results

    def join(self, seconds: float) -> tuple[DeviceName, ...]:
        """Wait so long for all workers to end, and say which have not."""
        deadline = self._host.clock() + seconds
        with self._lock:
            threads = dict(self._threads)
        for thread in threads.values():
            # Ctrl-C can come within start(), before Python takes the thread for one that can be joined.
            with contextlib.suppress(RuntimeError):
                thread.join(max(0.0, deadline - self._host.clock()))
        return tuple(sorted(pf for pf, thread in threads.items() if thread.is_alive()))

    def _run(self, gpu: PfSeen, actions: tuple[GpuAction, ...], now: datetime) -> None:
        current: Action = actions[0]

        def began(action: Action) -> None:
            nonlocal current
            current = action
            with self._lock:
                self._jobs[gpu.name] = replace(self._jobs[gpu.name], doing=doing(action, gpu))

        applied = Applied()
        try:
            applied = apply_all(actions, self._host, began=began, ended=self._stepped)
        except Exception as error:  # noqa: BLE001 -- whatever it is
            # It is a bug, and counts as a failure, so that the next pass doesn't run into it again at once.
            _log.exception("crashed: %s", current, extra={"device": gpu.name})
            why = f"the agent has a bug here: {type(error).__name__}: {error}"
            applied = Applied(
                failed=(current, ApplyFailed(path=self._host.function(gpu.function.address), why=why))
            )
        finally:
            with self._lock:
                del self._jobs[gpu.name]
                self._threads.pop(gpu.name, None)
                self._results.append(Result(pf=gpu.name, applied=applied))
            self._ended(gpu.name)
