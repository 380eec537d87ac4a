"""When the status is written to the API server, and what becomes of errors."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

import pytest
from msgspec.structs import replace

from reconciler.node.own_object import path_of
from reconciler.node.publisher import Publisher
from reconciler.runtime.kube.cache import Cached
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import Unreachable
from reconciler.runtime.kube.transport import Request, Response
from state.mirroring import OwnMetadata, OwnObject, decode_own
from state.status import AllocationStatus, NodeStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STATUS = NodeStatus(boot_id="b", version="1", observed_generation=1)


def with_claim(phase: str, message: str = "") -> NodeStatus:
    claim = AllocationStatus(name="c1", origin="claim", phase=phase, since=NOW, message=message)
    return replace(STATUS, allocations=(claim,))


@dataclass
class Server:
    """One object. What it ``forgets`` of a status is that of an older CRD; ``trouble`` answers instead."""

    uid: str = "u1"
    version: int = 1
    status: dict[str, object] | None = None
    forgets: str = ""
    trouble: Callable[[], Response] | None = None
    writes: list[dict[str, object]] = field(default_factory=list)

    def send(self, request: Request) -> Response:
        assert (request.method, request.path) == ("PATCH", f"{path_of('node a')}/status")
        if self.trouble is not None:
            return self.trouble()
        test, add = json.loads(request.body)
        assert (test["op"], test["path"], add["op"], add["path"]) == ("test", "/metadata/uid", "add", "/status")
        if test["value"] != self.uid:
            return self.refusal(422, "Invalid")
        status: dict[str, object] = add["value"]
        self.writes.append(status)
        self.status = {name: value for name, value in status.items() if name != self.forgets}
        self.version += 1
        body = {"metadata": {"name": "node a", "uid": self.uid}, "status": self.status}
        return Response(status=200, body=json.dumps(body).encode())

    @staticmethod
    def refusal(code: int, reason: str, **headers: str) -> Response:
        body = json.dumps({"kind": "Status", "code": code, "reason": reason, "message": "made up"}).encode()
        return Response(status=code, headers={"content-type": "application/json", **headers}, body=body)

    def stream(self, request: Request) -> NoReturn:
        raise AssertionError(request)

    def close(self) -> None:
        pass


class Scene:
    """A publisher, the server, a cache that hears of changes only when told to, and a clock."""

    def __init__(self) -> None:
        self.server = Server()
        self.now = 100.0
        self.live: Cached[OwnObject] | None = None
        self.publisher = Publisher(
            KubeClient(self.server, retries=NO_RETRIES),
            path_of("node a"),
            lambda: self.live,
            clock=lambda: self.now,
            rng=random.Random(1),
        )
        self.hear()

    def hear(self) -> None:
        server = self.server
        own = OwnObject(metadata=OwnMetadata(name="node a", uid=server.uid), status=server.status)
        self.live = Cached(uid=server.uid, resource_version=str(server.version), value=own)

    def offer(self, status: NodeStatus, *, seen_uid: str | None = "u1") -> float | None:
        self.publisher.offer(status, seen_uid)
        return self.publisher.step()


def test_a_status_is_written_once() -> None:
    scene = Scene()
    assert scene.offer(STATUS) is None
    assert scene.offer(STATUS) is None  # not heard of yet
    scene.hear()
    assert scene.offer(STATUS) is None
    assert len(scene.server.writes) == 1
    assert scene.server.writes[0]["observedGeneration"] == 1


def test_after_a_restart_what_stands_is_not_written_again() -> None:
    scene = Scene()
    scene.offer(STATUS)
    again = Scene()
    again.server.status = json.loads(json.dumps(scene.server.status))
    again.hear()
    assert again.offer(STATUS) is None
    assert again.server.writes == []


def test_at_most_one_write_a_second() -> None:
    scene = Scene()
    scene.offer(with_claim("Converging"))
    wait = scene.offer(with_claim("Converging", "turning on 4 VFs"))
    assert wait == pytest.approx(1.0)
    scene.now += 0.4
    assert scene.publisher.step() == pytest.approx(0.6)
    scene.now += 0.6
    assert scene.publisher.step() is None
    assert len(scene.server.writes) == 2


def test_a_phase_does_not_wait_for_the_second() -> None:
    scene = Scene()
    scene.offer(with_claim("Converging"))
    assert scene.offer(with_claim("Ready")) is None
    assert len(scene.server.writes) == 2


def test_what_others_write_into_the_status_is_put_right() -> None:
    scene = Scene()
    scene.offer(STATUS)
    scene.server.status = {"version": "somebody's"}
    scene.server.version += 1
    scene.hear()
    scene.now += 2
    assert scene.publisher.step() is None
    assert len(scene.server.writes) == 2


def test_an_older_crd_is_no_reason_to_write_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.server.forgets = "version"
    for _ in range(3):
        scene.now += 2
        scene.offer(STATUS)
        scene.hear()
    assert len(scene.server.writes) == 1
    scene.now += 2
    scene.offer(with_claim("Ready"))
    assert sum("dropped fields" in record.message for record in caplog.records) == 1


def test_a_generation_of_another_object_is_not_claimed() -> None:
    scene = Scene()
    scene.offer(STATUS, seen_uid="u0")
    assert "observedGeneration" not in scene.server.writes[0]
    scene.hear()
    scene.now += 2
    scene.offer(STATUS, seen_uid="u1")
    assert scene.server.writes[1]["observedGeneration"] == 1


def test_an_object_that_only_has_the_name_is_left_alone() -> None:
    scene = Scene()
    scene.server.uid = "u2"  # made anew, and nobody has heard yet
    wait = scene.offer(STATUS)
    assert wait is not None
    assert wait > 0
    assert scene.server.writes == []
    scene.hear()
    scene.now += wait
    assert scene.publisher.step() is None
    assert len(scene.server.writes) == 1


def test_without_an_object_nothing_is_written() -> None:
    scene = Scene()
    scene.live = None
    assert scene.offer(STATUS) is None
    assert scene.server.writes == []


def test_failures_back_off_and_the_newest_status_is_written() -> None:
    scene = Scene()

    def unreachable() -> Response:
        raise Unreachable("no route to host")

    scene.server.trouble = unreachable
    waits = []
    for _ in range(8):
        wait = scene.offer(with_claim("Converging"))
        assert wait is not None
        waits.append(wait)
        scene.now += wait
    assert waits[-1] > 5
    assert max(waits) <= 30
    assert scene.offer(with_claim("Ready")) is not None
    scene.server.trouble = None
    scene.now += 30
    assert scene.publisher.step() is None
    assert [write["allocations"][0]["phase"] for write in scene.server.writes] == ["Ready"]  # type: ignore[index]


def test_the_server_says_when_to_come_back() -> None:
    scene = Scene()
    scene.server.trouble = lambda: Server.refusal(429, "TooManyRequests", **{"retry-after": "7"})
    wait = scene.offer(STATUS)
    assert wait is not None
    assert wait >= 7
    scene.now += 6.5
    assert scene.offer(with_claim("Ready")) == pytest.approx(wait - 6.5)


def test_the_object_as_the_server_sends_it() -> None:
    raw = b'{"kind": "GpuNodeState", "metadata": {"name": "n", "uid": "u", "labels": {}}, "spec": {"x": 1}}'
    assert decode_own(raw).spec == {"x": 1}
