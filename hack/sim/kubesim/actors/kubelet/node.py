"""A kubelet, as far as a driver of devices meets it: registration, claims, pods, health, restarts, reboots."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kubesim import Cluster
from kubesim.actors.api import Api
from kubesim.actors.kubelet.cdi import Edits
from kubesim.actors.kubelet.claims import ClaimBook
from kubesim.actors.kubelet.health import HealthStream
from kubesim.actors.kubelet.messages import DeviceHealth, Health, HealthBook
from kubesim.actors.kubelet.plugins import Plugin, Plugins
from kubesim.actors.kubelet.pods import PodWorker, Surroundings
from kubesim.actors.kubelet.registration import Registry
from kubesim.actors.kubelet.runtime import Runtime
from kubesim.actors.kubelet.versions import Rules
from kubesim.actors.timing import RECORDED, Timing
from kubesim.values import Object

REGISTRY, RECORD = "plugins_registry", "dra_manager_state"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """What outlives a kubelet that is restarted."""

    cluster: Cluster
    node: str
    root: Path
    cdi_directories: tuple[Path, ...]
    timing: Timing
    clock: Callable[[], float]
    rng: random.Random
    rules: Rules
    runtime: Runtime


class Kubelet:
    """The kubelet of one node; `root` is what /var/lib/kubelet is elsewhere. It acts in threads of its own.

    Containers outlive `stop`, and so does the claims' record, a file in `root` (but in 1.26, which has none).
    """

    def __init__(
        self,
        cluster: Cluster,
        node: str,
        *,
        root: Path,
        cdi_directories: tuple[Path, ...],
        timing: Timing = RECORDED,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = _Site(
            cluster=cluster,
            node=node,
            root=root,
            cdi_directories=cdi_directories,
            timing=timing,
            clock=clock,
            rng=random.Random(seed),
            rules=Rules(minor=cluster.release.minor),
            runtime=Runtime(),
        )
        self._api = Api(cluster, "kubelet")
        self._work: _Work | None = None

    def start(self) -> None:
        """Begin, with the containers there are."""
        for folder in (REGISTRY, "plugins"):
            (self._site.root / folder).mkdir(parents=True, exist_ok=True)
        self._work = _Work(self._site)
        self._work.start()

    def stop(self) -> None:
        """End as if killed: containers, drivers and what is on disk stay. Raises what went wrong in a thread."""
        work, self._work = self._work, None
        if work is not None:
            work.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def power_off(self) -> None:
        """Switch the node off: no container runs any more, and what was in the CDI directories is gone."""
        self.stop()
        self._site.runtime.power_off()
        for directory in self._site.cdi_directories:
            for path in directory.glob("*"):
                path.unlink()

    @contextlib.contextmanager
    def running(self) -> Iterator["Kubelet"]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def containers(self, namespace: str, name: str) -> Mapping[str, Edits] | None:
        """What runs in a pod (also one whose object is gone, by its UID as name), None if nothing does."""
        pod = self._api.find("pods", namespace, name)
        return self._site.runtime.containers(name if pod is None else pod["metadata"]["uid"])

    def finish(self, namespace: str, name: str, exit_code: int = 0) -> None:
        """Let a pod's containers end by themselves. Raises LookupError for a pod that is not here."""
        self._worker(namespace, name).finish(exit_code)

    def restart_containers(self, namespace: str, name: str) -> None:
        """Let a pod's containers crash and be started again. Raises LookupError for a pod that is not here."""
        self._worker(namespace, name).restart()

    def _worker(self, namespace: str, name: str) -> PodWorker:
        pod = self._api.find("pods", namespace, name)
        work = self._work
        if pod is None or work is None or pod["metadata"]["uid"] not in work.workers:
            raise LookupError(f"no pod {namespace}/{name} on {self._site.node}")
        return work.workers[pod["metadata"]["uid"]]


class _Work:
    """What one run of a kubelet keeps in memory."""

    def __init__(self, site: _Site) -> None:
        self.workers: dict[str, PodWorker] = {}
        self._site = site
        self._timing = site.timing
        self._api = Api(site.cluster, "kubelet")
        self._plugins = Plugins()
        self._claims = ClaimBook(self._api, self._plugins, site.timing, site.rules, site.root / RECORD)
        self._registry = Registry(site.root / REGISTRY, site.rules, site.timing, clock=site.clock, listener=self)
        self._book = HealthBook()
        self._around = Surroundings(
            node=site.node,
            api=self._api,
            claims=self._claims,
            runtime=site.runtime,
            cdi_directories=site.cdi_directories,
            timing=site.timing,
            rules=site.rules,
            rng=site.rng,
            health=self._health,
        )
        self._streams: dict[Plugin, HealthStream] = {}
        self._connected: set[str] = set()
        self._wipes: dict[str, float] = {}
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._stopping = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"kubelet of {site.node}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._news.set()
        self._thread.join()
        for worker in self.workers.values():
            worker.ask_to_stop()
        self._registry.close()
        for stream in self._streams.values():
            stream.close()
            stream.join()
        for worker in self.workers.values():
            worker.join()
        failures = [self._failure, *(worker.failure for worker in self.workers.values())]
        for failure in failures:
            if failure is not None:
                raise failure

    # Drivers: the registry's listener, from any thread.

    def registered(self, plugin: Plugin) -> None:
        """Take a driver in."""
        if not self._site.rules.side_by_side:
            for older in self._plugins.of(plugin.driver):
                self._plugins.remove(older)
        self._plugins.add(plugin)
        if plugin.connected:
            with self._lock:
                self._connected.add(plugin.driver)
        if self._site.rules.opens_health_streams:
            stream = HealthStream(plugin, self._heard, self._timing.health_reopen)
            with self._lock:
                self._streams[plugin] = stream
            stream.start()

    def deregistered(self, plugin: Plugin) -> None:
        """Its socket is gone."""
        self._plugins.remove(plugin)
        with self._lock:
            stream = self._streams.pop(plugin, None)
        if stream is not None:
            stream.close()
            stream.join()

    def _heard(self, driver: str, said: tuple[DeviceHealth, ...] | None) -> None:
        with self._lock:
            if said is None:
                self._book.forget(driver)
                return
            changed = self._book.hear(driver, said, self._site.clock(), self._timing.health_timeout)
        if changed:
            for worker in list(self.workers.values()):
                worker.refresh()

    def _health(self, driver: str, pool: str, device: str) -> tuple[Health, str]:
        with self._lock:
            return self._book.of(driver, pool, device, self._site.clock())

    # The loop.

    def _run(self) -> None:
        with self._site.cluster.unobserved() as state:
            end = state.store.listen(("", "pods"), lambda _: self._news.set())
        try:
            self._loop()
        except Exception as error:  # noqa: BLE001  raised where the kubelet is stopped
            self._failure = error
        finally:
            with self._site.cluster.unobserved():
                end()

    def _loop(self) -> None:
        start = self._site.clock()
        wipe_all: float | None = start + self._timing.wipe_after_start
        forget: float | None = start + self._timing.forgotten_claims
        next_look = start
        while not self._stopping:
            self._news.clear()
            now = self._site.clock()
            if wipe_all is not None and now >= wipe_all:
                wipe_all = None
                self._wipe("")
            if now >= next_look:
                next_look = now + self._timing.registry_look
                self._registry.look()
                self._watch_connections(now)
            self._wipe_slices(now)
            present = self._tell_pods()
            if forget is not None and now >= forget:
                forget = now + self._timing.forgotten_claims
                self._give_back_forgotten(present)
            due = [each for each in (wipe_all, forget, next_look, *self._wipes.values()) if each is not None]
            self._news.wait(max(0.0, min(due) - self._site.clock()))

    def _tell_pods(self) -> set[str]:
        pods = {
            pod["metadata"]["uid"]: pod
            for pod in self._api.all("pods")
            if pod["spec"].get("nodeName") == self._site.node
        }
        for uid, worker in list(self.workers.items()):
            worker.tell(pods.get(uid))
            if not worker.alive and worker.failure is None and uid not in pods:
                del self.workers[uid]
        for uid, pod in pods.items():
            if uid not in self.workers and not self._stopping:
                self.workers[uid] = PodWorker(pod, self._around)
                self.workers[uid].start()
        return set(pods)

    def _give_back_forgotten(self, present: set[str]) -> None:
        """Pods that went while no kubelet ran."""
        for uid in (self._claims.holders() | self._site.runtime.pods()) - present - set(self.workers):
            pod: Object = {"metadata": {"uid": uid, "name": uid, "namespace": ""}, "spec": {}, "status": {}}
            self.workers[uid] = PodWorker(pod, self._around)
            self.workers[uid].tell(None)
            self.workers[uid].start()

    def _watch_connections(self, now: float) -> None:
        """Note which drivers have gone: without a connected instance, their slices go after a while."""
        with self._lock:
            before = set(self._connected)
            connected = self._plugins.connected()
            self._connected = set(connected)
        for driver in before - connected:
            self._wipes[driver] = now + self._timing.wipe_after_disconnect
        for driver in connected:
            self._wipes.pop(driver, None)

    def _wipe_slices(self, now: float) -> None:
        for driver in [driver for driver, due in self._wipes.items() if now >= due]:
            del self._wipes[driver]
            self._wipe(driver)

    def _wipe(self, driver: str) -> None:
        """Delete a driver's slices of this node, all drivers' if none is named."""
        if not self._site.rules.wipes_slices:
            return
        for each in self._api.all("resourceslices"):
            if each["spec"].get("nodeName") == self._site.node and driver in ("", each["spec"]["driver"]):
                self._api.delete("resourceslices", each)
