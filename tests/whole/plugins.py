"""The kubelet plugin without gRPC: what it does for calls, on a clock that stands still while it waits."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from kubesim.actors.kubelet import messages
from kubesim.actors.kubelet.messages import ClaimName
from kubesim.actors.kubelet.plugins import NotRegistered
from plugin.agent_status import AgentStatus, Seen
from plugin.claims import Answer, Prepared
from plugin.clock import Clock
from plugin.confirming import Node
from plugin.marks import Marks, check_uid
from plugin.places import Places
from plugin.preparing import Preparations
from plugin.registered import RegisteredSign
from reconciler.runtime.files import sweep_temporaries
from tests.engine.machines import Time

DRIVER = "gpu.intel.com"


class PluginProcess:
    """A plugin from start to death. Calls never wait: the kubelet has to ask again, as after a deadline."""

    def __init__(self, node: str, places: Places, time: Time, nonces: Iterator[int]) -> None:
        for directory in (places.status_dir, places.marks_dir, places.lock_dir):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        sweep_temporaries(places.marks_dir)
        self._places = places
        self._sign = RegisteredSign(places.registered_lock(DRIVER), owner=node)
        self._status = AgentStatus(places.status_file, self._changed)
        self._preparations = Preparations(
            Node(pool=node, boot_id=places.boot_id_file.read_text().strip()),
            Marks(places.marks_dir),
            self._status,
            Clock(monotonic=time.monotonic, wall=lambda: datetime.fromtimestamp(time.wall(), UTC)),
            lambda: f"nonce-{next(nonces)}",
        )

    def look(self) -> None:
        """Take in the node agent's status, and register once there is something to offer."""
        self._status.refresh()
        if not self._sign.shown and self._places.server_file.exists() and self._status.seen is not None:
            self._sign.show()

    def _changed(self, seen: Seen) -> None:
        self._preparations.status_changed(seen)

    @property
    def registered(self) -> bool:
        return self._sign.shown

    def end(self) -> None:
        self._sign.hide()

    def prepare(self, claims: Iterable[ClaimName], seconds: float) -> Mapping[str, messages.Prepared]:
        answers = self._preparations.prepare(_uids(claims), "v1", 0.0)
        return {uid: _told(answer) for uid, answer in answers.items()}

    def unprepare(self, claims: Iterable[ClaimName], seconds: float) -> Mapping[str, str]:
        return self._preparations.unprepare(_uids(claims), 0.0)


class Drivers:
    """The kubelet's knowledge of plugins: at most the one."""

    def __init__(self, node: str, places: Places, time: Time) -> None:
        self._node, self._places, self._time = node, places, time
        self._nonces = itertools.count(1)
        self.process = self._start()

    def need(self, driver: str) -> PluginProcess:
        if driver != DRIVER or not self.process.registered:
            raise NotRegistered(driver)
        return self.process

    def look(self) -> None:
        self.process.look()

    def restart(self) -> None:
        """The plugin is killed, and started again."""
        self.process.end()
        self.process = self._start()

    def _start(self) -> PluginProcess:
        return PluginProcess(self._node, self._places, self._time, self._nonces)


def _uids(claims: Iterable[ClaimName]) -> tuple[str, ...]:
    uids = tuple(claim.uid for claim in claims)
    for uid in uids:
        check_uid(uid)
    return uids


def _told(answer: Answer) -> messages.Prepared:
    if not isinstance(answer, Prepared):
        return messages.Prepared(error=answer.why)
    return messages.Prepared(
        devices=tuple(
            messages.PreparedDevice(
                requests=(device.request,),
                pool=device.pool,
                device=device.device,
                cdi_ids=(device.cdi_id,),
                share=device.share_id,
            )
            for device in answer.devices
        )
    )
