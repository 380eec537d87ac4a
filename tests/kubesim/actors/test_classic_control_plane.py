"""Classic scheduler and claim controller where no recording says what they do."""

from typing import Any

import pytest

from kubesim import Cluster, ManualClock
from kubesim.actors import Timing, control_plane, settle
from kubesim.actors.api import Api
from kubesim.actors.classic import forms
from kubesim.actors.classic.negotiation import ASKED_FOR_INFORMATION, ASKED_TO_ALLOCATE, Prospects, asked
from kubesim.actors.classic.turns import Turns

Object = dict[str, Any]


class Site:
    """A classic cluster on a clock that stands still. The driver's part is played by the test."""

    def __init__(self, release: str = "1.26", *, nodes: tuple[str, ...] = ("n1", "n2")) -> None:
        self.clock = ManualClock()
        self.cluster = Cluster(release, clock=self.clock)
        self.api = Api(self.cluster, "somebody")
        self.schedulings = "podschedulings" if release == "1.26" else "podschedulingcontexts"
        for name in nodes:
            self.api.create("nodes", "", {"metadata": {"name": name, "labels": {"name": name}}})
        self.api.create("resourceclasses", "", {"metadata": {"name": "any"}, "driverName": "d.example.com"})
        template = {"spec": {"spec": {"resourceClassName": "any"}}}
        self.api.create("resourceclaimtemplates", "default", {"metadata": {"name": "t"}, "spec": template["spec"]})
        self.actors = control_plane(self.cluster)

    def wait(self, seconds: float = 12.0) -> None:
        """Let the actors act whenever they want to."""
        until = self.clock.seconds + seconds
        while (due := settle(self.cluster, *self.actors)) is not None and self.clock.seconds + due <= until:
            self.clock.seconds += max(due, 1e-6)
        self.clock.seconds = until

    def claim(self, name: str, **spec: Any) -> None:
        spec = {"resourceClassName": "any", **spec}
        self.api.create("resourceclaims", "default", {"metadata": {"name": name}, "spec": spec})

    def pod(self, name: str, **entries: str) -> None:
        """A pod with these entries: names of claims, "t" for the template."""
        claims = [
            {"name": entry, "source": {"resourceClaimTemplateName" if each == "t" else "resourceClaimName": each}}
            for entry, each in entries.items()
        ]
        body = {"containers": [{"name": "c", "image": "x:1"}], "resourceClaims": claims}
        self.api.create("pods", "default", {"metadata": {"name": name}, "spec": body})
        self.wait()

    def found(self, plural: str, name: str) -> Object:
        found = self.api.find(plural, "default", name)
        assert found is not None, (plural, name)
        return found

    def allocate(self, name: str, node: str = "", *, shareable: bool = False, user: str = "") -> None:
        term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        allocation: Object = {"resourceHandle": "h", "shareable": shareable}
        if node:
            allocation["availableOnNodes"] = {"nodeSelectorTerms": [term]}
        users = []
        if user:
            users = [{"resource": "pods", "name": user, "uid": self.found("pods", user)["metadata"]["uid"]}]
        status = {"driverName": "d.example.com", "allocation": allocation, "reservedFor": users}
        self.api.patch("resourceclaims", self.found("resourceclaims", name), {"status": status}, "status")

    def say(self, pod: str, **unsuitable: list[str]) -> None:
        """What a driver says of a pod's entries."""
        entries = [{"name": name, "unsuitableNodes": nodes} for name, nodes in unsuitable.items()]
        seen = self.found(self.schedulings, pod)
        self.api.patch(self.schedulings, seen, {"status": {"resourceClaims": entries}}, "status")

    def node_of(self, pod: str) -> str | None:
        name: str | None = self.found("pods", pod)["spec"].get("nodeName")
        return name

    def why(self, pod: str) -> str:
        [said] = self.found("pods", pod)["status"]["conditions"]
        message: str = said["message"]
        return message


def test_what_is_allocated_but_not_usable_yet_is_given_back_meanwhile() -> None:
    site = Site()
    site.claim("ready")
    site.allocate("ready", "n2")
    site.claim("open")
    site.pod("p", a="ready", b="open")
    assert site.found("podschedulings", "p")["spec"] == {"potentialNodes": ["n2"], "selectedNode": "n2"}
    assert "reservedFor" not in site.found("resourceclaims", "ready")["status"]
    site.allocate("open", "n2", user="p")
    site.wait()
    assert site.node_of("p") == "n2"
    assert [each["name"] for each in site.found("resourceclaims", "ready")["status"]["reservedFor"]] == ["p"]
    assert site.api.all("podschedulings") == []


def test_of_two_pods_with_one_exclusive_claim_one_waits() -> None:
    site = Site()
    site.claim("one")
    site.pod("a", g="one")
    site.pod("b", g="one")
    site.allocate("one", user="a")
    site.wait(30)
    assert (site.node_of("a") is not None, site.node_of("b")) == (True, None)
    assert "resourceclaim in use" in site.why("b")


@pytest.mark.parametrize("mode", ["WaitForFirstConsumer", "Immediate"])
def test_only_delayed_claims_are_asked_back(mode: str) -> None:
    site = Site()
    site.claim("near")
    site.allocate("near")
    site.claim("far", allocationMode=mode)
    site.allocate("far", "gone")
    site.pod("p", n="near", g="far")
    assert "deallocationRequested" not in site.found("resourceclaims", "near")["status"]
    asked_back = site.found("resourceclaims", "far")["status"].get("deallocationRequested", False)
    assert asked_back == (mode == "WaitForFirstConsumer")
    assert "resourceclaim must be reallocated" in site.why("p") or "not available on the node" in site.why("p")


def test_a_class_may_exclude_nodes() -> None:
    site = Site()
    seen = site.api.find("resourceclasses", "", "any")
    assert seen is not None
    term = {"matchExpressions": [{"key": "name", "operator": "In", "values": ["n2"]}]}
    site.api.patch("resourceclasses", seen, {"suitableNodes": {"nodeSelectorTerms": [term]}})
    site.pod("p", g="t")
    assert site.found("podschedulings", "p")["spec"]["potentialNodes"] == ["n2"]


def test_what_is_missing_is_said_and_waited_for() -> None:
    site = Site()
    site.pod("no-claim", g="later")
    assert 'resourceclaim "later" not found' in site.why("no-claim")
    site.claim("later", resourceClassName="unknown")
    site.wait()
    assert 'resource class "unknown" not found' in site.why("no-claim")
    site.api.create("resourceclasses", "", {"metadata": {"name": "unknown"}, "driverName": "d.example.com"})
    site.wait()
    assert len(site.api.all("podschedulings")) == 1


def test_a_claim_of_that_name_that_is_not_the_pod_s() -> None:
    site = Site()
    site.claim("p-g")
    site.pod("p", g="t")
    events = [
        each["message"] for each in site.api.all("events") if each["reason"] == "FailedResourceClaimCreation"
    ]
    assert events == ['PodResourceClaim "g": ResourceClaim "p-g" was not created for this pod']


@pytest.mark.parametrize(("release", "kept"), [("1.26", True), ("1.28", False)])
def test_the_claim_of_a_pod_that_is_done(release: str, kept: bool) -> None:
    site = Site(release)
    site.pod("p", g="t")
    [claim] = site.api.all("resourceclaims")
    assert (claim["metadata"]["name"] == "p-g") == (release == "1.26")
    site.allocate(claim["metadata"]["name"], "n1", user="p")
    site.wait()
    assert site.node_of("p") == "n1"
    site.api.patch("pods", site.found("pods", "p"), {"status": {"phase": "Succeeded"}}, "status")
    site.wait()
    left = site.api.all("resourceclaims")
    assert [each["status"].get("reservedFor") for each in left] == ([None] if kept else [])


@pytest.mark.parametrize(("release", "asked_back"), [("1.26", False), ("1.28", True)])
def test_a_claim_that_is_not_used_any_more(release: str, asked_back: bool) -> None:
    site = Site(release)
    site.claim("named")
    site.pod("p", g="named")
    site.allocate("named", "n1", user="p")
    site.wait()
    site.api.delete("pods", site.found("pods", "p"), grace=0)
    site.wait()
    status = site.found("resourceclaims", "named")["status"]
    assert ("reservedFor" in status, status.get("deallocationRequested", False)) == (False, asked_back)


def test_of_many_nodes_128_are_asked_about() -> None:
    names = [f"n{number:03}" for number in range(200)]
    spec, said = asked(None, Prospects(nodes=names[::-1], pending=["g"]))
    assert spec == {"potentialNodes": names[72:], "selectedNode": "n199"}
    assert said == ASKED_TO_ALLOCATE


def test_all_pending_claims_must_have_been_spoken_of() -> None:
    prospects = Prospects(nodes=["n1", "n2"], pending=["a", "b"])
    spec, said = asked(None, prospects)
    assert (spec, said) == ({"potentialNodes": ["n1", "n2"]}, ASKED_FOR_INFORMATION)
    half = {"spec": spec, "status": {"resourceClaims": [{"name": "a"}]}}
    assert asked(half, prospects) == (spec, ASKED_FOR_INFORMATION)
    whole = {"spec": spec, "status": {"resourceClaims": [{"name": "a"}, {"name": "b", "unsuitableNodes": ["n1"]}]}}
    left = Prospects(nodes=["n2"], pending=["a", "b"])
    assert asked(whole, left) == ({**spec, "selectedNode": "n2"}, ASKED_TO_ALLOCATE)


def test_pods_are_tried_again_ever_more_rarely_and_only_upon_news() -> None:
    turns = Turns(timing=Timing())
    taken = []
    for tenths in range(600):
        now = tenths / 10
        if turns.take("pod", int(now * 10), now):
            taken.append(now)
    assert taken == [0.0, 2.0, 5.0, 10.0, 19.0, 30.0, 41.0, 52.0]
    assert turns.take("pod", "news", 100.0)
    assert not turns.take("pod", "news", 200.0)
    assert turns.next_due() is None
    assert turns.take("pod", "other news", 200.0)


def test_what_drivers_hear_of_a_claim() -> None:
    several = [{"driverName": "a.example.com", "data": "for a"}, {"driverName": "b.example.com", "data": "for b"}]
    result = {"request": "r", "driver": "a.example.com", "pool": "n", "device": "d"}
    classic: Object = {"resourceClassName": "any"}
    for spec, allocation, expected in (
        (classic, {"resourceHandle": "one"}, {"d.example.com": "one"}),
        (classic, {"resourceHandles": several}, {"a.example.com": "for a", "b.example.com": "for b"}),
        (classic, {"resourceHandles": [{"data": "own"}]}, {"d.example.com": "own"}),
        (classic, {}, {"d.example.com": ""}),
        (
            {"devices": {}},
            {"controller": "a.example.com", "devices": {"results": [result]}},
            {"a.example.com": ""},
        ),
    ):
        claim: Object = {"spec": spec, "status": {"driverName": "d.example.com", "allocation": allocation}}
        assert forms.handles(claim) == expected
