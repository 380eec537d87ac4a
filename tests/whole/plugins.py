"""The kubelet plugin without gRPC: what it does for calls. While one waits, the rest of the world goes on."""

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from kubesim.actors.kubelet import messages
from kubesim.actors.kubelet.messages import ClaimName
from kubesim.actors.kubelet.plugins import NotRegistered
from plugin import in_flight
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


class Waiting:
    """Stands in for `threading` where calls wait: whoever waits has ``meanwhile`` happen instead."""

    Condition = threading.Condition

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    @contextmanager
    def instead(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(in_flight, "threading", self)
            yield

    def Event(self) -> "_Stirred":
        return _Stirred(self._meanwhile)


class _Stirred(threading.Event):
    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._meanwhile()
        return self.is_set()


class PluginProcess:
    """A plugin from start to death. Calls have ``patience``: with none the kubelet always has to ask again."""

    def __init__(self, node: str, places: Places, time: Time, nonces: Iterator[int], patience: float) -> None:
        self._patience = patience
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
        answers = self._preparations.prepare(_uids(claims), "v1", self._patience)
        return {uid: _told(answer) for uid, answer in answers.items()}

    def unprepare(self, claims: Iterable[ClaimName], seconds: float) -> Mapping[str, str]:
        return self._preparations.unprepare(_uids(claims), 0.0)


class Drivers:
    """The kubelet's knowledge of plugins: at most the one."""

    def __init__(self, node: str, places: Places, time: Time, patience: float) -> None:
        self._node, self._places, self._time, self._patience = node, places, time, patience
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
        return PluginProcess(self._node, self._places, self._time, self._nonces, self._patience)


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
