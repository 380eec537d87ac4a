"""Preparing claims for pods: a mark that says "in use", and a wait until the node agent has confirmed it.

The kubelet tries again a minute or more after a failure, so this waits rather than fails. It never confirms
without having seen the echo of its own mark: until then the node agent may be taking the device away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from plugin.agent_status import AgentStatus, Seen
from plugin.claims import Answer, NotPrepared, Prepared
from plugin.clock import Clock
from plugin.confirming import Node, judge
from plugin.in_flight import Call, InFlight
from plugin.marks import Marks
from state.records import Mark

_log = logging.getLogger(__name__)

_BUSY = "an earlier call for one of the pod's claims has not ended yet"
_CANCELLED = "was given back while it was being prepared"


class Preparations:
    """What the kubelet may ask of this node, whatever the version of the service.

    UIDs must have passed check_uid(). Nothing here raises for what files hold or lack: it becomes the answer.
    """

    def __init__(
        self, node: Node, marks: Marks, status: AgentStatus, clock: Clock, new_nonce: Callable[[], str]
    ) -> None:
        self._node = node
        self._marks = marks
        self._status = status
        self._clock = clock
        self._new_nonce = new_nonce
        self._in_flight = InFlight(clock.monotonic)

    def prepare(self, uids: tuple[str, ...], version: str, seconds: float) -> dict[str, Answer]:
        """Mark these claims as in use and wait for up to ``seconds`` altogether until all are confirmed.

        A mark stays when the wait was in vain: the kubelet will ask for the claim again, or give it back.
        """
        deadline = self._clock.monotonic() + seconds
        call = self._in_flight.begin(uids, deadline)
        if call is None:
            return dict.fromkeys(uids, NotPrepared(why=_BUSY))
        try:
            nonces, failed = self._mark_all(call, version)
            self._in_flight.wait(call, nonces, self._judge, deadline)
            self._status.refresh()  # in case nothing was heard of the last change
            return {uid: failed.get(uid) or self._result(call, uid) for uid in uids}
        finally:
            self._in_flight.end(call)

    def unprepare(self, uids: tuple[str, ...], seconds: float) -> dict[str, str]:
        """Take the marks of these claims away. By UID what went wrong, empty for success; having none is one."""
        deadline = self._clock.monotonic() + seconds
        return {uid: self._unprepare(uid, deadline) for uid in uids}

    def status_changed(self, seen: Seen) -> None:
        """Look at what is waited for, and remove marks that a person released."""
        self._in_flight.look_again(self._judge)
        for uid, nonce in seen.file.released_marks.items():
            if nonce:
                self._drop_released(uid, nonce)

    def _judge(self, uid: str, nonce: str) -> Answer:
        # Always by the newest status: one that comes while a call begins to wait must not be missed.
        return judge(self._status.seen, uid, nonce, self._node, self._clock.wall())

    def _mark_all(self, call: Call, version: str) -> tuple[dict[str, str], Mapping[str, NotPrepared]]:
        """The nonces of the claims, and those that can't be marked."""
        seen = self._status.refresh()
        nonces: dict[str, str] = {}
        failed: dict[str, NotPrepared] = {}
        for uid in call.uids:
            try:
                nonces[uid] = self._mark(uid, version, seen)
            except OSError as error:
                _log.error("can't mark the claim as in use: %s", error, extra={"claim": uid})
                failed[uid] = NotPrepared(why=f"can't mark the claim as in use: {error}")
        return nonces, failed

    def _mark(self, uid: str, version: str, seen: Seen | None) -> str:
        """Make sure that the claim has a mark of this boot. One that is there already stays, as does its nonce."""
        mark = self._marks.read(uid)
        released = None if seen is None else seen.file.released_marks.get(uid)
        if mark is None or mark.boot_id != self._node.boot_id or mark.nonce in ("", released):
            nonce = self._new_nonce()
            mark = Mark(uid=uid, nonce=nonce, boot_id=self._node.boot_id, grpc_version=version)
        elif mark.grpc_version != version:
            # Another kubelet since: the node agent believes those of 1.26 to forget claims.
            mark = replace(mark, grpc_version=version)
        elif isinstance(self._judge(uid, mark.nonce), Prepared):
            return mark.nonce
        self._marks.write(mark)  # one that was there, too: the agent may have missed it
        return mark.nonce

    def _result(self, call: Call, uid: str) -> Answer:
        if uid in call.cancelled:
            return NotPrepared(why=_CANCELLED)
        nonce = call.nonces[uid]
        answer: Answer = call.prepared.get(uid) or self._judge(uid, nonce)
        if isinstance(answer, Prepared) and not self._still_marked(uid, nonce):
            return NotPrepared(why=_CANCELLED)
        return answer

    def _still_marked(self, uid: str, nonce: str) -> bool:
        try:
            mark = self._marks.read(uid)
        except OSError as error:
            _log.error("can't read a mark: %s", error, extra={"claim": uid})
            return False
        return mark is not None and mark.nonce == nonce

    def _unprepare(self, uid: str, deadline: float) -> str:
        self._in_flight.cancel(uid)
        call = self._in_flight.begin((uid,), deadline)
        if call is None:
            return _BUSY
        try:
            self._marks.remove(uid)
        except OSError as error:
            _log.error("can't remove a mark: %s", error, extra={"claim": uid})
            return f"can't remove the claim's mark: {error}"
        finally:
            self._in_flight.end(call)
        return ""

    def _drop_released(self, uid: str, nonce: str) -> None:
        """Remove a mark unless somebody is at the claim just now; the next status says it again."""
        call = self._in_flight.begin((uid,), self._clock.monotonic())
        if call is None:
            return
        try:
            mark = self._marks.read(uid)
            if mark is not None and mark.nonce == nonce:
                self._marks.remove(uid)
                _log.warning("removed the mark of a released claim", extra={"claim": uid})
        except OSError as error:
            _log.error("can't remove the mark of a released claim: %s", error, extra={"claim": uid})
        finally:
            self._in_flight.end(call)
