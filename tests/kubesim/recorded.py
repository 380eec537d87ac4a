"""Recorded exchanges with real servers: reading them, sending them again, comparing what comes back.

Uids and versions of the recording become those of the simulated cluster as responses show them; both are left out
of comparisons, as are times, continue tokens and managedFields.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from kubesim import Cluster, Request, Response, User
from tests.contract_files import read_json

VOLATILE = frozenset({"creationTimestamp", "managedFields", "resourceVersion", "serverAddress", "uid"})
TIMES = frozenset({"deletionTimestamp", "lastTransitionTime", "time"})
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
VERSION = re.compile(
    r"(?<=version: )\d+|(?<=current: )\d+|(?<=precondition \()\d+|(?<=record \()\d+|(?<= \()\d+(?=\))"
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the recorded answer to it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    status: int
    answer_headers: dict[str, str]
    answer: Any
    stream: list[Any]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def exchanges(path: str) -> list[Exchange]:
    """The exchanges of a contract file, one or several."""
    whole = read_json(path)
    return [_exchange(each) for each in whole.get("exchanges") or [whole]]


def _exchange(raw: dict[str, Any]) -> Exchange:
    request, response = raw["request"], raw["response"]
    return Exchange(
        method=request["method"],
        path=request["path"],
        headers={key.lower(): value for key, value in request.get("headers", {}).items()},
        body=request.get("body"),
        status=response["status"],
        answer_headers={key.lower(): value for key, value in response.get("headers", {}).items()},
        answer=response.get("body"),
        stream=[each.get("line", each) for each in response.get("stream", [])],
    )


def normal(value: Any) -> Any:
    """A value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: _normal_member(key, each) for key, each in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [normal(each) for each in value]
    if isinstance(value, str):
        return VERSION.sub("N", UUID.sub("U", value))
    return value


def _normal_member(key: str, value: Any) -> Any:
    if key in TIMES:
        return "T"
    if key == "continue":
        return bool(value)
    return normal(value)


def parsed(body: bytes) -> Any:
    """JSON if it is that, text otherwise."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@dataclass
class Replay:
    """Sends recorded requests to a cluster in the words that it understands."""

    cluster: Cluster
    user: User | None = None
    known: dict[str, str] = field(default_factory=dict)

    def request(self, exchange: Exchange) -> Request:
        """The recorded request with this cluster's uids and versions."""
        body = exchange.body
        headers = {key: value for key, value in exchange.headers.items() if key != "authorization"}
        if isinstance(body, dict | list):
            body = json.dumps(body)
        sent = Request.to(exchange.method, self.translated(exchange.path))
        payload = self.translated(body).encode() if body is not None else b""
        return Request(
            method=sent.method, path=sent.path, query=sent.query, headers=headers, body=payload, user=self.user
        )

    def send(self, exchange: Exchange) -> Response:
        """Send it again, and learn uids and versions from the answer."""
        response = self.cluster.handle(self.request(exchange))
        self.learn(exchange.answer, parsed(response.body))
        return response

    def translated(self, text: str) -> str:
        pattern = "|".join(re.escape(each) for each in sorted(self.known, key=len, reverse=True))
        return (
            re.sub(rf"(?<![0-9])({pattern})(?![0-9])", lambda found: self.known[found[0]], text)
            if pattern
            else text
        )

    def learn(self, recorded: Any, answered: Any) -> None:
        """Pair what was recorded with what came now."""
        if isinstance(recorded, dict) and isinstance(answered, dict):
            for key, value in recorded.items():
                now = answered.get(key)
                if (
                    key in ("resourceVersion", "uid", "continue")
                    and isinstance(value, str)
                    and isinstance(now, str)
                ):
                    if value and now:
                        self.known[value] = now
                else:
                    self.learn(value, now)
        elif isinstance(recorded, list) and isinstance(answered, list):
            for value, now in zip(recorded, answered, strict=False):
                self.learn(value, now)


def differences(exchange: Exchange, response: Response) -> list[str]:
    """What an answer has other than the recorded one: status, type, warnings, body."""
    found = []
    if response.status != exchange.status:
        found.append(f"status {response.status}, recorded {exchange.status}")
    for name in ("content-type", "retry-after", "warning"):
        recorded = exchange.answer_headers.get(name)
        now: list[str | None] = [value for key, value in response.headers if key.lower() == name]
        if recorded not in (now or [None]):  # of several warnings, the recording has one
            found.append(f"{name} {now!r}, recorded {recorded!r}")
    return found + unequal(normal(exchange.answer), normal(parsed(response.body)))


def unequal(recorded: Any, now: Any, path: str = "") -> list[str]:
    """Where two values differ, one line each."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        lines = []
        for key in sorted(recorded.keys() | now.keys()):
            place = f"{path}.{key}"
            if key not in now:
                lines.append(f"{place} is missing, recorded {json.dumps(recorded[key])[:300]}")
            elif key not in recorded:
                lines.append(f"{place} is new: {json.dumps(now[key])[:300]}")
            else:
                lines += unequal(recorded[key], now[key], place)
        return lines
    if isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        return [
            line
            for index, pair in enumerate(zip(recorded, now, strict=True))
            for line in unequal(*pair, f"{path}[{index}]")
        ]
    if recorded == now or (recorded in (None, "") and now in (None, "")):
        return []
    return [f"{path} is {json.dumps(now)[:400]}, recorded {json.dumps(recorded)[:400]}"]
