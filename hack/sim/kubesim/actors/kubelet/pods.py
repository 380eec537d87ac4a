"""One pod's life on its node: devices prepared, containers started and stopped, devices given back."""

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from kubesim import Refusal
from kubesim.actors.api import Api, Severity, deleting, finished
from kubesim.actors.kubelet import cdi, statuses
from kubesim.actors.kubelet.cdi import Unresolvable
from kubesim.actors.kubelet.claims import ClaimBook, Held, PrepareFailed, UnprepareFailed
from kubesim.actors.kubelet.runtime import Runtime
from kubesim.actors.kubelet.statuses import HealthOf
from kubesim.actors.kubelet.versions import Rules
from kubesim.actors.timing import Timing
from kubesim.values import Object

DEVICES_ANNOTATION = "kubesim/devices"
"""On running pods: JSON of what each container got, {container: {nodes: [...], env: [...]}}."""
KILLED = 137


class _Stopped(Exception):
    """The kubelet is being stopped; containers stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What pods share with each other on a node."""

    node: str
    api: Api
    claims: ClaimBook
    runtime: Runtime
    cdi_directories: tuple[Path, ...]
    timing: Timing
    rules: Rules
    rng: random.Random
    health: HealthOf


class PodWorker:
    """A thread that follows one pod until it is gone, or the kubelet stops."""

    def __init__(self, pod: Object, around: Surroundings) -> None:
        self._around = around
        self._pod = pod
        self._uid = pod["metadata"]["uid"]
        self._gone = False
        self._stopping = False
        self._exit_code: int | None = None
        self._restart = False
        self._refresh = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"pod {pod['metadata']['name']}", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # From other threads.

    def tell(self, pod: Object | None) -> None:
        """How the pod is now; None when it is gone."""
        with self._changed:
            self._gone = pod is None
            self._pod = self._pod if pod is None else pod
            self._changed.notify_all()

    def refresh(self) -> None:
        """Something about its devices changed."""
        with self._changed:
            self._refresh = True
            self._changed.notify_all()

    def finish(self, exit_code: int) -> None:
        """Its containers end by themselves."""
        with self._changed:
            self._exit_code = exit_code
            self._changed.notify_all()

    def restart(self) -> None:
        """Its containers end and are started again."""
        with self._changed:
            self._restart = True
            self._changed.notify_all()

    def ask_to_stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self) -> None:
        self._thread.join()

    # In its own.

    def _run(self) -> None:
        try:
            self._live()
        except _Stopped:
            pass
        except Exception as error:  # noqa: BLE001  raised where the kubelet is stopped
            self.failure = error

    def _live(self) -> None:
        if finished(self._pod) and not self._runs():
            self._give_back()
            self._leave()
            return
        self._exit_code = self._around.runtime.exit_code(self._uid)
        if self._exit_code is None and (self._runs() or self._begin()):
            self._keep_running()
        self._end()
        self._leave()

    def _wait(self, seconds: float | None, until: Callable[[], bool]) -> None:
        """Raises _Stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or until(), seconds)
            if self._stopping:
                raise _Stopped

    def _runs(self) -> bool:
        return self._around.runtime.containers(self._uid) is not None

    def _leaving(self) -> bool:
        return self._gone or deleting(self._pod) or finished(self._pod)

    def _begin(self) -> bool:
        """Prepare and start, again and again; whether that was possible before the pod had to go."""
        around = self._around
        self._write(lambda pod: statuses.waiting(pod, around.api.time(), "ContainerCreating"))
        while not self._leaving():
            try:
                if not around.rules.prepares_with_containers:
                    around.claims.prepare(self._pod)
            except PrepareFailed as error:
                self._wait(0, lambda: False)
                text = f"Failed to prepare dynamic resources: prepare dynamic resources: {error}"
                self._event("Warning", "FailedPrepareDynamicResources", text)
                spread = around.timing.prepare_retry_spread * around.rng.random()
                self._wait(around.timing.prepare_retry + spread, self._leaving)
                continue
            if self._leaving() or self._start_containers():
                break
        return self._runs()

    def _start_containers(self) -> bool:
        """Make the containers with what CDI has for them; whether the pod runs now."""
        around, failures = self._around, 0
        while not self._leaving():
            try:
                if around.rules.prepares_with_containers:
                    around.claims.prepare(self._pod)
                held = around.claims.of(self._pod)
                made = {
                    spec["name"]: cdi.edits(self._cdi_ids(spec, held), around.cdi_directories)
                    for spec in self._pod["spec"]["containers"]
                }
            except PrepareFailed as error:
                self._wait(0, lambda: False)
                self._tell_failure("CreateContainerConfigError", f"{error}")
                failures += 1
                spread = around.timing.container_retry_spread * around.rng.random()
                again = around.timing.container_retry + spread if failures > 1 else around.timing.first_retry
                self._wait(again, self._leaving)
                continue
            except Unresolvable as error:
                self._tell_failure("CreateContainerError", f"failed to create containerd container: {error}")
                self._wait(around.timing.container_retry, self._leaving)
                continue
            around.runtime.start(self._uid, made)
            self._annotate(json.dumps({name: each.shown() for name, each in made.items()}))
            self._event("Normal", "Started", "Container started")
            self._show_running()
            return True
        return False

    def _cdi_ids(self, container: Object, held: Mapping[str, Held]) -> Iterator[str]:
        """What the runtime is asked for. Raises Unresolvable for a claim without any, where that matters."""
        for _, _, device in statuses.devices_for(self._pod, container, held):
            if self._around.rules.fails_without_ids and not device.cdi_ids:
                raise Unresolvable('failed to parse CDI device annotations: invalid CDI device name ""')
            yield from device.cdi_ids

    def _tell_failure(self, reason: str, why: str) -> None:
        """Containers can't be made."""
        self._event("Warning", "Failed", f"Error: {why}")
        self._write(partial(statuses.waiting, time=self._around.api.time(), reason=reason, message=why))

    def _show_running(self) -> None:
        around = self._around
        held = around.claims.of(self._pod)
        restarts = around.runtime.restarts(self._uid)
        self._write(lambda pod: statuses.running(pod, around.api.time(), restarts, held, around.health))

    def _keep_running(self) -> None:
        """Until the pod is deleted or its containers end."""
        while True:
            self._wait(
                None, lambda: self._leaving() or self._exit_code is not None or self._restart or self._refresh
            )
            if self._leaving() or self._exit_code is not None:
                return
            self._refresh = False
            if self._restart:
                self._restart = False
                self._around.runtime.stop(self._uid)
                self._start_containers()
            else:
                self._show_running()

    def _end(self) -> None:
        """Stop the containers, give back the devices, and only then say that the pod has ended."""
        around = self._around
        if self._gone:
            self._wait(around.timing.vanished_pod, lambda: False)
        elif self._exit_code is None and self._runs():
            self._event("Normal", "Killing", "Stopping container")
            self._wait(around.timing.stop, lambda: False)
        around.runtime.stop(self._uid, self._exit_code)
        code = KILLED if self._exit_code is None else self._exit_code
        if self._exit_code is not None:
            self._write(lambda pod: statuses.ended(pod, around.api.time(), code, "Running"))
        self._give_back()
        phase = "Succeeded" if code == 0 else "Failed"
        self._write(lambda pod: statuses.ended(pod, around.api.time(), code, phase))

    def _give_back(self) -> None:
        timing = self._around.timing
        while True:
            try:
                self._around.claims.unprepare(self._uid)
            except UnprepareFailed as error:
                retry = timing.unprepare_retry if error.registered else timing.unregistered_retry
                self._wait(retry, lambda: False)
            else:
                return

    def _leave(self) -> None:
        """Remove the pod's object once somebody wants it deleted."""
        self._wait(None, lambda: self._gone or deleting(self._pod))
        live = self._around.api.same("pods", self._pod)
        if live is not None:
            self._around.api.delete("pods", live, grace=0)

    def _write(self, status: Callable[[Object], Object]) -> None:
        """Write the pod's status as it should be now; of no use, and not tried, when the pod is gone."""
        while (pod := self._around.api.same("pods", self._pod)) is not None and not finished(pod):
            wanted = status(pod)
            if all(pod["status"].get(key) == value for key, value in wanted.items()):
                return
            if self._patched(pod, {"status": wanted}, "status"):
                return

    def _annotate(self, text: str) -> None:
        while (pod := self._around.api.same("pods", self._pod)) is not None:
            if self._patched(pod, {"metadata": {"annotations": {DEVICES_ANNOTATION: text}}}, ""):
                return

    def _patched(self, pod: Object, patch: Object, part: Literal["", "status"]) -> bool:
        """Whether a patch was taken; another writer may have been faster."""
        try:
            self._around.api.patch("pods", pod, patch, part)
        except Refusal as refusal:
            if refusal.code not in (404, 409):
                raise
            return False
        return True

    def _event(self, severity: Severity, reason: str, message: str) -> None:
        self._around.api.event(self._pod, severity, reason, message, host=self._around.node)
