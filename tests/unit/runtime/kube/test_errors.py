"""Every recorded answer that is not a plain success, through the client."""

import json
from typing import Any

import pytest

from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    ServerFault,
    TooManyRequests,
    Unauthorized,
    error_of_event,
)
from reconciler.runtime.kube.transport import Response
from tests.contract_files import copied_paths, read_json
from tests.unit.runtime.kube.replies import Replies

RECORDINGS = tuple(path for path in copied_paths() if path.startswith("discovery/errors/"))

KINDS: dict[str, type[ApiError]] = {
    "400-bad-continue": ApiError,
    "400-crd-strict": ApiError,
    "400-malformed-json": ApiError,
    "400-name-mismatch": ApiError,
    "400-strict-unknown-field": ApiError,
    "400-wrong-type": ApiError,
    "401-unauthorized": Unauthorized,
    "403-anonymous": Forbidden,
    "403-forbidden": Forbidden,
    "403-forbidden-named": Forbidden,
    "404-crd-deleted-group": NotFound,
    "404-delete": NotFound,
    "404-notfound": NotFound,
    "404-subresource": NotFound,
    "404-unknown-path": NotFound,
    "405-method-not-allowed": ApiError,
    "406-not-acceptable": ApiError,
    "409-alreadyexists": AlreadyExists,
    "409-conflict-patch-resourceversion": Conflict,
    "409-conflict-resourceversion": Conflict,
    "409-delete-precondition-rv": Conflict,
    "409-delete-precondition-uid": Conflict,
    "410-expired-continue": Expired,
    "410-list-exact-old": Expired,
    "413-too-large": ApiError,
    "415-media-type": ApiError,
    "422-apply-without-fieldmanager": Invalid,
    "422-crd-cel": Invalid,
    "422-crd-required-and-type": Invalid,
    "422-crd-schema": Invalid,
    "422-crd-transition-rule": Invalid,
    "422-json-patch-test-failed": Invalid,
    "429-eviction-pdb": TooManyRequests,
    "429-too-many-requests": TooManyRequests,
    "504-rv-too-large": ServerFault,
    "apply-conflict": Conflict,
    "crd-finalizer-delete": NotFound,
}


def exchanges(name: str) -> list[dict[str, Any]]:
    recorded = read_json(f"discovery/errors/{name}.json")
    return list(recorded.get("exchanges", [recorded]))


def response_of(exchange: dict[str, Any]) -> Response:
    recorded = exchange["response"]
    body = recorded["body"]
    return Response(
        status=recorded["status"],
        headers={name.lower(): value for name, value in recorded["headers"].items()},
        body=(body if isinstance(body, str) else json.dumps(body)).encode(),
    )


def replay(exchange: dict[str, Any]) -> bytes:
    """Let the client ask for what was asked then."""
    client = KubeClient(Replies(answer=lambda request: response_of(exchange)), retries=NO_RETRIES)
    path = exchange["request"]["path"].partition("?")[0]
    match exchange["request"]["method"], exchange["request"]["headers"].get("Content-Type", ""):
        case "GET", _:
            return client.get(path)
        case "POST", _:
            return client.create(path, b"{}")
        case "PUT", _:
            return client.replace(path, b"{}")
        case "DELETE", _:
            return client.delete(path)
        case "PATCH", "application/apply-patch+yaml":
            return client.apply(path, b"{}", field_manager="test")
        case "PATCH", "application/json-patch+json":
            return client.json_patch(path, b"[]")
        case "PATCH", "application/merge-patch+json":
            return client.merge_patch(path, b"{}")
        case other:
            raise AssertionError(f"no verb for {other}")


def failure(name: str) -> ApiError:
    """The one error of a recording."""
    failed = []
    for exchange in exchanges(name):
        try:
            replay(exchange)
        except ApiError as error:
            failed.append(error)
    assert len(failed) == 1, f"{name}: {failed}"
    return failed[0]


@pytest.mark.parametrize("path", RECORDINGS)
def test_every_recorded_answer_is_understood(path: str) -> None:
    name = path.removeprefix("discovery/errors/").removesuffix(".json")
    for exchange in exchanges(name):
        recorded = exchange["response"]
        if 200 <= recorded["status"] < 300:
            assert replay(exchange) == response_of(exchange).body
            continue
        with pytest.raises(ApiError) as caught:
            replay(exchange)
        error, body = caught.value, recorded["body"]
        assert type(error) is KINDS[name]
        assert error.status == recorded["status"]
        if isinstance(body, dict):
            assert (error.message, error.reason) == (body["message"], body["reason"])
            causes = body.get("details", {}).get("causes", [])
            assert [(c.reason, c.message, c.field) for c in error.causes] == [
                (c.get("reason", ""), c.get("message", ""), c.get("field", "")) for c in causes
            ]
        else:
            assert (error.message, error.reason) == (body.strip(), "")
        assert str(error).startswith(f"{exchange['request']['method']} {error.about.partition(' ')[2]}: ")


def test_every_recording_that_fails_has_its_kind() -> None:
    failing = {
        path.removeprefix("discovery/errors/").removesuffix(".json")
        for path in RECORDINGS
        if any(e["response"]["status"] >= 300 for e in exchanges(path[len("discovery/errors/") : -len(".json")]))
    }
    assert failing == set(KINDS)


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("404-crd-deleted-group", True),
        ("404-unknown-path", True),
        ("404-subresource", True),
        ("404-notfound", False),
        ("404-delete", False),
        ("crd-finalizer-delete", False),
    ],
)
def test_a_missing_object_differs_from_a_missing_resource(name: str, absent: bool) -> None:
    error = failure(name)
    assert isinstance(error, NotFound)
    assert error.resource_absent is absent


@pytest.mark.parametrize(
    ("name", "seconds"), [("429-too-many-requests", 1.0), ("504-rv-too-large", 1.0), ("429-eviction-pdb", None)]
)
def test_the_server_says_when_to_come_back(name: str, seconds: float | None) -> None:
    assert failure(name).retry_after == seconds


def test_all_refused_fields_are_named() -> None:
    assert {cause.field for cause in failure("422-crd-schema").causes} >= {"spec.items", "spec.mode"}


@pytest.mark.parametrize("retry_after", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "soon", "", "\u0661"])
def test_what_is_no_number_of_seconds_is_left_to_the_back_off(retry_after: str) -> None:
    refused = Response(status=429, headers={"retry-after": retry_after})
    with pytest.raises(TooManyRequests) as caught:
        KubeClient(Replies(answer=lambda request: refused)).get("/api")
    assert caught.value.retry_after is None


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>" + b"x" * 5000, b'{"kind": "Pod"}', b"[1]", b"null"])
def test_a_body_that_is_no_status_becomes_the_message_cut_short(body: bytes) -> None:
    with pytest.raises(ServerFault) as caught:
        KubeClient(Replies(answer=lambda request: Response(status=502, body=body)), retries=NO_RETRIES).get("/api")
    assert caught.value.status == 502
    assert len(str(caught.value)) < 300


def test_an_error_event_of_a_watch_is_the_error_of_its_code() -> None:
    stream = read_json("discovery/watch/k1.36.3-error-410.json")["response"]["stream"]
    error = error_of_event(json.dumps(stream[0]["line"]["object"]).encode(), "WATCH /api/v1/pods")
    assert isinstance(error, Expired)
    assert "too old resource version" in str(error)
