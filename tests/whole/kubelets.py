"""A kubelet in little: prepares claims before containers run, gives them back after they ended."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kubesim import Cluster, Refusal
from kubesim.actors.api import Api, deleting
from kubesim.actors.kubelet import cdi
from kubesim.actors.kubelet.cdi import Unresolvable
from kubesim.actors.kubelet.claims import ClaimBook, Held, PrepareFailed, UnprepareFailed
from kubesim.actors.kubelet.plugins import Plugins
from kubesim.actors.kubelet.versions import Rules
from kubesim.actors.timing import RECORDED
from kubesim.values import Object
from tests.whole.plugins import Drivers


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What runs for a pod: what of which claims."""

    pod: str
    claims: tuple[str, ...]
    nodes: tuple[str, ...]


class HandKubelet:
    """``began`` and ``ended`` hear of claims' containers: of the first that runs, and when the last has ended."""

    def __init__(
        self,
        node: str,
        cluster: Cluster,
        drivers: Drivers,
        devfs: Path,
        cdi_directory: Path,
        record: Path,
        *,
        began: Callable[[str], None],
        ended: Callable[[str], None],
    ) -> None:
        self._node, self._record, self._devfs, self._cdi = node, record, devfs, cdi_directory
        self._api = Api(cluster, "kubelet")
        self._drivers = drivers
        self._began, self._ended = began, ended
        self.running: dict[str, Container] = {}
        self.complaints: dict[str, str] = {}
        """Why pods don't run."""
        self._start()

    def pods(self) -> list[Object]:
        """The pods that are to run here."""
        return [each for each in self._api.all("pods") if each["spec"].get("nodeName") == self._node]

    def sync_pod(self, name: str) -> None:
        """See to one pod only, if it is here."""
        for pod in self.pods():
            if pod["metadata"]["name"] == name:
                self._see_to(pod)

    def sync(self) -> None:
        """See to all pods, and to what is left of those that are gone."""
        pods = self.pods()
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in sorted((self.running.keys() | self._claims.holders()) - present):
            self._give_back(uid)
        for pod in pods:
            self._see_to(pod)

    def restart(self) -> None:
        """The kubelet is killed and started again; containers run on."""
        self._start()

    def power_off(self) -> None:
        """Nothing runs any more."""
        for uid in list(self.running):
            self._stop(uid)
        self._start()

    def _start(self) -> None:
        self._claims = ClaimBook(
            self._api,
            cast(Plugins, self._drivers),
            RECORDED,
            Rules(minor=self._api.cluster.release.minor),
            self._record,
        )

    def _see_to(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if deleting(pod):
            if self._give_back(uid):
                self._api.delete("pods", pod, grace=0)
        elif uid not in self.running:
            try:
                self._run(pod, self._claims.prepare(pod))
                self.complaints.pop(uid, None)
            except (PrepareFailed, Unresolvable) as error:
                self.complaints[uid] = str(error)

    def _run(self, pod: Object, held: dict[str, Held] | object) -> None:
        """Raises Unresolvable."""
        claims = cast(dict[str, Held], held)
        devices = [device for each in claims.values() for found in each.devices.values() for device in found]
        made = cdi.edits((name for each in devices for name in each.cdi_ids), (self._cdi,))
        gone = [path for path in made.nodes if not (self._devfs / path.removeprefix("/dev/")).exists()]
        if gone:
            raise Unresolvable(f"no such file: {gone}")
        uids = tuple(each.name.uid for each in claims.values())
        for claim in uids:
            if not self._users(claim):
                self._began(claim)
        self.running[pod["metadata"]["uid"]] = Container(
            pod=pod["metadata"]["name"], claims=uids, nodes=made.nodes
        )
        try:
            self._api.patch("pods", pod, {"status": {"phase": "Running"}}, "status")
        except Refusal as refusal:
            if refusal.code not in (404, 409):
                raise

    def _give_back(self, uid: str) -> bool:
        """Whether it is done."""
        self._stop(uid)
        self.complaints.pop(uid, None)
        try:
            self._claims.unprepare(uid)
        except UnprepareFailed:
            return False
        return True

    def _stop(self, uid: str) -> None:
        container = self.running.pop(uid, None)
        for claim in () if container is None else container.claims:
            if not self._users(claim):
                self._ended(claim)

    def _users(self, claim: str) -> int:
        return sum(claim in each.claims for each in self.running.values())
