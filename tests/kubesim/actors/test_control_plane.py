"""Scheduler and controllers where no recording says what they do: nodes, workloads, time, people's mistakes."""

from typing import Any

import pytest

from kubesim import Cluster, ManualClock
from kubesim.actors import Timing, acting, control_plane, settle
from kubesim.actors.api import Api
from tests.kubesim.actors.bench import eventually

Object = dict[str, Any]
DRIVER = "gpu.example.com"


class Site:
    """A cluster on a clock that stands still, with one class for all devices of the driver."""

    def __init__(
        self, release: str = "1.36", *, nodes: tuple[str, ...] = ("n1",), immediate: bool = False
    ) -> None:
        self.clock = ManualClock()
        self.cluster = Cluster(release, clock=self.clock)
        self.api = Api(self.cluster, "somebody")
        for name in nodes:
            self.api.create("nodes", "", {"metadata": {"name": name, "labels": {"name": name}}})
        selector = {"cel": {"expression": f"device.driver == '{DRIVER}'"}}
        self.api.create("deviceclasses", "", {"metadata": {"name": "any"}, "spec": {"selectors": [selector]}})
        self.actors = control_plane(self.cluster, immediate=immediate)

    def settle(self) -> float | None:
        return settle(self.cluster, *self.actors)

    def publish(self, name: str, *devices: Object, pool: Object | None = None, **place: Any) -> None:
        whole = {"name": name, "generation": 1, "resourceSliceCount": 1} | (pool or {})
        spec = {"driver": DRIVER, "pool": whole, "devices": list(devices), **(place or {"nodeName": "n1"})}
        self.api.create("resourceslices", "", {"metadata": {"name": name}, "spec": spec})

    def claim(self, name: str, *requests: Object, **more: Any) -> None:
        spec = {"devices": {"requests": list(requests or (request("r"),)), **more}}
        self.api.create("resourceclaims", "default", {"metadata": {"name": name}, "spec": spec})

    def pod(self, name: str, *claims: str, **spec: Any) -> Object:
        """A pod, once everybody has seen to it."""
        uses = [{"name": each, "resourceClaimName": each} for each in claims]
        containers = [{"name": "c", "image": "x:1"}]
        body = {"metadata": {"name": name}, "spec": {"containers": containers, "resourceClaims": uses, **spec}}
        self.api.create("pods", "default", body)
        self.settle()
        return self.found("pods", name)

    def found(self, plural: str, name: str) -> Object:
        found = self.api.find(plural, "default", name)
        assert found is not None
        return found

    def results(self, name: str) -> list[Object]:
        status = self.found("resourceclaims", name).get("status", {})
        found: list[Object] = status.get("allocation", {}).get("devices", {}).get("results", [])
        return found

    def devices(self, name: str) -> list[str]:
        return [each["device"] for each in self.results(name)]


def request(name: str, *expressions: str, **exactly: Any) -> Object:
    selectors = [{"cel": {"expression": each}} for each in expressions]
    return {"name": name, "exactly": {"deviceClassName": "any", "selectors": selectors, **exactly}}


def why(pod: Object) -> str:
    """Why a pod has no node."""
    said = next(each for each in pod["status"]["conditions"] if each["type"] == "PodScheduled")
    assert said["status"] == "False"
    text: str = said["message"]
    return text


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('device.attributes["gpu.example.com"].version.isGreaterThan(semver("1.9.0"))', ["new"]),
        ('device.attributes["gpu.example.com"].version.compareTo(semver("1.10.0-rc.1")) < 0', ["old"]),
        ('device.attributes["gpu.example.com"].version.major() == 1', ["old", "new"]),
        ('device.capacity["gpu.example.com"].memory.compareTo(quantity("8Gi")) >= 0', ["new"]),
        ('device.capacity["gpu.example.com"].memory.isLessThan(quantity("8Gi"))', ["old"]),
        ('device.attributes["resource.kubernetes.io"].pcieRoot == "pci0"', ["old"]),
        ('has(device.attributes["nobody.example.com"].anything)', []),
        ('"family" in device.attributes["gpu.example.com"]', ["new"]),
        ("device.allowMultipleAllocations", []),
    ],
)
def test_selectors(expression: str, expected: list[str]) -> None:
    site = Site()
    old = {
        "name": "old",
        "attributes": {"version": {"version": "1.9.0"}, "resource.kubernetes.io/pcieRoot": {"string": "pci0"}},
        "capacity": {"memory": {"value": "4Gi"}},
    }
    new = {
        "name": "new",
        "attributes": {
            "version": {"version": "1.10.0"},
            "family": {"string": "flex"},
            "resource.kubernetes.io/pcieRoot": {"string": "pci1"},
        },
        "capacity": {"memory": {"value": "16Gi"}},
    }
    site.publish("s", old, new)
    site.claim("c", request("r", expression, allocationMode="All"))
    site.pod("p", "c")
    assert site.devices("c") == expected


def test_a_selector_that_fails_is_told_to_people() -> None:
    site = Site()
    site.publish("s", {"name": "d"})
    site.claim("c", request("r", 'device.attributes["gpu.example.com"].missing == 1'))
    assert "missing" in why(site.pod("p", "c"))


def test_a_class_that_is_not_there_is_told_to_people_and_waited_for() -> None:
    site = Site()
    site.publish("s", {"name": "d"})
    site.claim("c", {"name": "r", "exactly": {"deviceClassName": "later"}})
    assert why(site.pod("p", "c")) == "request r: device class later does not exist"
    site.api.create("deviceclasses", "", {"metadata": {"name": "later"}, "spec": {}})
    site.settle()
    assert site.devices("c") == ["d"]


def test_all_devices_means_all_of_them_free() -> None:
    site = Site()
    site.publish("s", {"name": "a"}, {"name": "b"})
    site.claim("one")
    site.claim("all", request("r", allocationMode="All"))
    site.pod("p", "one")
    site.pod("q", "all")
    assert (site.devices("one"), site.devices("all")) == (["a"], [])
    site.api.delete("pods", site.found("pods", "p"), grace=0)
    site.settle()
    assert site.devices("all") == ["a", "b"]


def test_only_the_newest_generation_counts_and_only_when_complete() -> None:
    site = Site()
    site.publish("old", {"name": "a"}, pool={"name": "p"})
    site.publish("new", {"name": "b"}, pool={"name": "p", "generation": 2, "resourceSliceCount": 2})
    site.claim("c")
    site.pod("p", "c")
    assert site.devices("c") == []
    site.publish("newer", {"name": "c"}, pool={"name": "p", "generation": 2, "resourceSliceCount": 2})
    site.settle()
    assert site.devices("c") == ["b"]


@pytest.mark.parametrize(
    ("place", "selector"),
    [
        ({"nodeName": "n2"}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}),
        (
            {
                "nodeSelector": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "name", "operator": "Exists"}]}]
                }
            },
            {"matchExpressions": [{"key": "name", "operator": "Exists"}]},
        ),
        ({"allNodes": True}, None),
    ],
)
def test_where_a_claim_can_be_used(place: Object, selector: Object | None) -> None:
    site = Site(nodes=("n1", "n2"))
    site.publish("s", {"name": "d"}, **place)
    site.claim("c")
    pod = site.pod("p", "c")
    assert pod["spec"]["nodeName"] == ("n2" if "nodeName" in place else "n1")
    allocation = site.found("resourceclaims", "c")["status"]["allocation"]
    assert allocation.get("nodeSelector") == (selector and {"nodeSelectorTerms": [selector]})


def test_pods_go_where_they_may_and_where_their_claim_is() -> None:
    site = Site(nodes=("n1", "n2"))
    site.publish("s", {"name": "d"}, nodeName="n2")
    site.claim("c")
    assert "resourceclaim" not in why(site.pod("elsewhere", "c", nodeSelector={"name": "n1"}))
    assert site.devices("c") == []
    assert site.pod("first", "c")["spec"]["nodeName"] == "n2"
    assert "resourceclaim not available on the node" in why(site.pod("late", "c", nodeSelector={"name": "n1"}))
    assert site.pod("second", "c")["spec"]["nodeName"] == "n2"
    assert len(site.found("resourceclaims", "c")["status"]["reservedFor"]) == 2


def test_a_node_with_taints_or_cordoned_is_avoided() -> None:
    site = Site(nodes=("n1", "n2"))
    site.api.patch("nodes", site.api.all("nodes")[0], {"spec": {"unschedulable": True}})
    taint = {"key": "own", "effect": "NoSchedule"}
    site.api.patch("nodes", site.api.all("nodes")[1], {"spec": {"taints": [taint]}})
    assert why(site.pod("p")).startswith(
        "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were"
    )
    tolerant = site.pod("q", tolerations=[{"key": "own", "operator": "Exists"}])
    assert tolerant["spec"]["nodeName"] == "n2"


def test_binding_conditions_are_not_waited_for_for_ever() -> None:
    site = Site()
    conditions = {"bindingConditions": ["ready"], "bindingFailureConditions": ["failed"]}
    site.publish("s", {"name": "d", **conditions})
    site.claim("c")
    assert "nodeName" not in site.pod("p", "c")["spec"]
    messages = set()
    for _ in range(130):
        due = site.settle()
        site.clock.seconds += 5 if due is None else due
        messages |= {each.get("message") for each in site.found("pods", "p")["status"].get("conditions", ())}
    assert any("reason=Timeout" in (each or "") for each in messages)


def test_claims_without_pods_are_allocated_if_that_is_wanted() -> None:
    for immediate in (False, True):
        site = Site(immediate=immediate)
        site.publish("s", {"name": "d"})
        site.claim("c")
        site.settle()
        assert site.devices("c") == (["d"] if immediate else [])
        pod = site.pod("p", "c")
        assert pod["spec"]["nodeName"] == "n1"


@pytest.mark.parametrize("release", ["1.32", "1.33", "1.34", "1.35", "1.36"])
def test_every_structured_release(release: str) -> None:
    site = Site(release)
    site.publish("s", {"name": "d", "attributes": {"type": {"string": "gpu"}}})
    site.claim("c", request("r", 'device.attributes["gpu.example.com"].type == "gpu"'))
    assert site.pod("p", "c")["spec"]["nodeName"] == "n1"
    assert site.devices("c") == ["d"]
    site.api.delete("pods", site.found("pods", "p"), grace=0)
    site.settle()
    assert site.found("resourceclaims", "c")["status"] == {}


def test_a_deployment_gets_pods_with_claims_of_their_own() -> None:
    site = Site()
    site.publish("s", *({"name": f"d{number}"} for number in range(3)))
    template = {"spec": {"devices": {"requests": [request("r")]}}}
    site.api.create("resourceclaimtemplates", "default", {"metadata": {"name": "t"}, "spec": template})
    pod_spec = {
        "containers": [{"name": "c", "image": "x:1"}],
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}],
    }
    spec = {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": pod_spec},
    }
    site.api.create("deployments", "default", {"metadata": {"name": "a"}, "spec": spec})
    site.settle()
    assert sorted(each["spec"]["nodeName"] for each in site.api.all("pods")) == ["n1", "n1"]
    assert {site.devices(each["metadata"]["name"])[0] for each in site.api.all("resourceclaims")} == {"d0", "d1"}
    site.api.patch("deployments", site.found("deployments", "a"), {"spec": {"replicas": 3}})
    site.settle()
    assert len(site.api.all("resourceclaims")) == 3
    site.api.patch("deployments", site.found("deployments", "a"), {"spec": {"replicas": 0}})
    site.settle()
    for pod in site.api.all("pods"):
        site.api.delete("pods", pod, grace=0)
    site.settle()
    assert site.api.all("resourceclaims") == []


def test_actors_in_a_thread_follow_changes() -> None:
    cluster = Cluster("1.36")
    api = Api(cluster, "somebody")
    with acting(cluster, *control_plane(cluster, Timing().scaled(0.01))):
        api.create("nodes", "", {"metadata": {"name": "n1"}})
        spec = {"containers": [{"name": "c", "image": "x:1"}]}
        api.create("pods", "default", {"metadata": {"name": "p"}, "spec": spec})
        eventually(
            "bound", lambda: (api.find("pods", "default", "p") or {"spec": {}})["spec"].get("nodeName") == "n1"
        )


def test_an_actors_mistake_ends_the_context() -> None:
    class Clumsy:
        def step(self) -> float | None:
            raise ZeroDivisionError("clumsy")

    with pytest.raises(ZeroDivisionError, match="clumsy"), acting(Cluster("1.36"), Clumsy()):
        pass
