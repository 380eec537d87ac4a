"""Every recorded error exchange of a 1.36.3 server, sent again in the order in which they were made."""

from dataclasses import replace
from typing import Any

import pytest

from kubesim import ADMIN, ANONYMOUS, Attributes, Cluster, Fault, ManualClock, Request, Rule, User
from tests.contract_files import copied_paths
from tests.kubesim.recorded import Exchange, Replay, differences, exchanges, parsed

ORDER = (
    "201-created",
    "409-alreadyexists",
    "409-conflict-resourceversion",
    "409-conflict-patch-resourceversion",
    "409-delete-precondition-uid",
    "409-delete-precondition-rv",
    "400-name-mismatch",
    "apply-conflict",
    "422-apply-without-fieldmanager",
    "404-notfound",
    "404-delete",
    "404-subresource",
    "404-unknown-path",
    "405-method-not-allowed",
    "406-not-acceptable",
    "415-media-type",
    "413-too-large",
    "400-bad-continue",
    "410-expired-continue",
    "410-list-exact-old",
    "504-rv-too-large",
    "400-malformed-json",
    "400-wrong-type",
    "400-strict-unknown-field",
    "201-warn-unknown-field",
    "401-unauthorized",
    "403-anonymous",
    "403-forbidden",
    "403-forbidden-named",
    "crd-created",
    "crd-established",
    "422-crd-cel",
    "422-crd-schema",
    "422-crd-required-and-type",
    "400-crd-strict",
    "201-crd-pruned",
    "422-crd-transition-rule",
    "422-json-patch-test-failed",
    "200-crd-status-update",
    "200-crd-spec-update",
    "crd-finalizer-delete",
    "404-crd-deleted-group",
    "200-deprecated-warning",
    "200-table",
    "list-chunk",
    "429-too-many-requests",
)
NOT_REPLAYED = {"429-eviction-pdb": "PodDisruptionBudgets are not simulated"}
MODIFIED = "/api/v1/namespaces/rec-err/configmaps/a"
NOBODY = User(name="system:serviceaccount:rec-err:nobody")


class OnlyAdmin:
    """Lets the administrator do everything, and others nothing."""

    def allows(self, user: User, attributes: Attributes) -> bool:
        return user == ADMIN


ANSWERS = [(name, index) for name in ORDER for index in range(len(exchanges(f"discovery/errors/{name}.json")))]


def slices() -> list[Any]:
    """201 slices, of which the recordings show the first two."""
    first = exchanges("discovery/errors/200-deprecated-warning.json")[0].answer["items"][0]
    second = exchanges("discovery/errors/200-table.json")[0].answer["rows"][1]["object"]["metadata"]
    names = [first["metadata"]["name"], second["name"], *(f"fake-002-{index:03}" for index in range(199))]
    return [{"metadata": {"name": name, "labels": {"design": "1"}}, "spec": first["spec"]} for name in names]


@pytest.fixture(scope="module")
def replay() -> Replay:
    """A cluster as it was when the recordings began."""
    clock = ManualClock()
    cluster = Cluster("1.36", authorizer=OnlyAdmin(), tokens={"nobody": NOBODY}, anonymous=ANONYMOUS, clock=clock)
    for namespace in ("rec-err", "rec-chunk"):
        cluster.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    for index in range(5):
        request = {"name": "r", "exactly": {"deviceClassName": "rec.gpu.intel.com"}}
        claim = {"metadata": {"name": f"c{index}"}, "spec": {"devices": {"requests": [request]}}}
        cluster.create("/apis/resource.k8s.io/v1/namespaces/rec-chunk/resourceclaims", claim)
    for each in slices():
        cluster.create("/apis/resource.k8s.io/v1/resourceslices", each)
    clock.seconds += 12  # the recorded ages
    return Replay(cluster, user=ADMIN)


def prepare(replay: Replay, name: str, exchange: Exchange) -> Request:
    """What the recording says in words, or in the past, happens here."""
    request = replay.request(exchange)
    match name:
        case "409-conflict-resourceversion":
            replay.cluster.merge(MODIFIED, {"data": {"a": "2"}})
        case "410-expired-continue" | "410-list-exact-old":
            replay.cluster.compact()
        case "413-too-large":
            return replace(request, body=b'"' + b"x" * 4 * 1024 * 1024 + b'"')
        case "429-too-many-requests":
            replay.cluster.add_fault(Rule(fault=Fault.THROTTLED, path="^/openapi/v2", count=1))
        case "401-unauthorized":
            return replace(request, user=None, headers={**request.headers, "authorization": "Bearer stolen"})
        case "403-anonymous":
            return replace(request, user=None)
        case "403-forbidden" | "403-forbidden-named":
            return replace(request, user=None, headers={**request.headers, "authorization": "Bearer nobody"})
        case _:
            pass
    return request


@pytest.fixture(scope="module")
def answers(replay: Replay) -> dict[tuple[str, int], list[str]]:
    """The differences of all exchanges, made in order."""
    found = {}
    for name in ORDER:
        for index, exchange in enumerate(exchanges(f"discovery/errors/{name}.json")):
            response = replay.cluster.handle(prepare(replay, name, exchange))
            replay.learn(exchange.answer, parsed(response.body))
            found[name, index] = differences(exchange, response)
    return found


@pytest.mark.parametrize(("name", "index"), ANSWERS)
def test_the_answer_is_the_recorded_one(answers: dict[tuple[str, int], list[str]], name: str, index: int) -> None:
    assert answers[name, index] == []


def test_every_recorded_file_has_its_place() -> None:
    folder = "discovery/errors/"
    recorded = {
        each.removeprefix(folder).removesuffix(".json") for each in copied_paths() if each.startswith(folder)
    }
    assert recorded == {*ORDER, *NOT_REPLAYED}
