"""The layouts that were tried on a real scheduler (contracts/examples) give here what they gave there."""

from typing import Any

import pytest
import yaml

from kubesim import Cluster
from kubesim.actors import ClaimController, Scheduler, settle
from kubesim.values import copy
from tests.contract_files import read_text

Object = dict[str, Any]
RESOURCE = "/apis/resource.k8s.io/v1"
CLAIMS = f"{RESOURCE}/namespaces/design/resourceclaims"
PF = "0000-b3-00-0-0x56c0"
M4 = 'device.attributes["gpu.intel.com"].profile == "m4"'
M8 = 'device.attributes["gpu.intel.com"].profile == "m8"'
VF, SHARED, WHOLE, MONITOR = "vf.gpu.intel.com", "shared.gpu.intel.com", "gpu.intel.com", "monitor.gpu.intel.com"
DISCRETE = '!has(device.attributes["gpu.intel.com"].integrated)'


class Site:
    """One node with the recommended layout; every claim gets a pod of its own."""

    def __init__(self, layout: str = "recommended") -> None:
        self.cluster = Cluster("1.36", seed=3)
        labels = {"resource.kubernetes.io/admin-access": "true"}
        self.cluster.create("/api/v1/namespaces", {"metadata": {"name": "design", "labels": labels}})
        self.cluster.create("/api/v1/nodes", {"metadata": {"name": "fake-001"}})
        self.cluster.load(read_text(f"examples/{layout}.yaml"))
        self.actors = (ClaimController(self.cluster), Scheduler(self.cluster))

    def ask(self, name: str, *parts: Object, **more: Any) -> list[str]:
        """The devices of a claim with these requests, none if its pod stays pending."""
        requests = [each if "firstAvailable" in each else _request(f"r{n}", each) for n, each in enumerate(parts)]
        spec = {"devices": {"requests": requests, **more}}
        self.cluster.create(CLAIMS, {"metadata": {"name": name}, "spec": spec})
        return self.use(name)

    def use(self, name: str) -> list[str]:
        body = {
            "containers": [{"name": "c", "image": "x:1", "resources": {"claims": [{"name": "d"}]}}],
            "resourceClaims": [{"name": "d", "resourceClaimName": name}],
        }
        self.cluster.create("/api/v1/namespaces/design/pods", {"metadata": {"name": name}, "spec": body})
        settle(self.cluster, *self.actors)
        return self.devices(name)

    def results(self, name: str) -> list[Object]:
        status = self.cluster.get(f"{CLAIMS}/{name}").get("status", {})
        found: list[Object] = status.get("allocation", {}).get("devices", {}).get("results", [])
        return found

    def devices(self, name: str) -> list[str]:
        return [each["device"].removeprefix(f"{PF}-") for each in self.results(name)]

    def give_back(self, name: str) -> None:
        self.cluster.delete(f"/api/v1/namespaces/design/pods/{name}?gracePeriodSeconds=0")
        settle(self.cluster, *self.actors)


def _request(name: str, exactly: Object) -> Object:
    return {"name": name, "exactly": exactly}


def part(class_name: str, *selectors: str, memory: str = "", **more: Any) -> Object:
    """A request's inner part."""
    wanted = {"capacity": {"requests": {"memory": memory}}} if memory else {}
    chosen = [{"cel": {"expression": each}} for each in selectors]
    return {"deviceClassName": class_name, "selectors": chosen, **wanted, **more}


@pytest.fixture(name="site")
def _site() -> Site:
    return Site()


def test_one_mode_at_a_time_and_four_vfs_of_m4(site: Site) -> None:
    for number in range(4):
        assert site.ask(f"vf-{number}", part(VF, M4)) == ["m4"]
    assert site.ask("fifth", part(VF, M4)) == []
    assert site.ask("m8", part(VF, M8)) == []
    assert site.ask("shared", part(SHARED)) == []
    assert site.ask("whole", part(WHOLE, DISCRETE)) == []
    assert len({each["shareID"] for n in range(4) for each in site.results(f"vf-{n}")}) == 4


def test_waiting_pods_get_what_is_given_back(site: Site) -> None:
    assert site.ask("whole", part(WHOLE, DISCRETE)) == [PF]
    assert site.ask("shared", part(SHARED)) == site.ask("vf", part(VF)) == []
    site.give_back("whole")
    assert (site.devices("shared"), site.devices("vf")) == (["shared"], [])


def test_memory_is_shared_up_to_what_there_is(site: Site) -> None:
    for number in range(3):
        assert site.ask(f"small-{number}", part(SHARED, memory="512Mi")) == ["shared"]
    assert site.ask("rounded", part(SHARED, memory="700Mi")) == ["shared"]
    assert site.results("rounded")[0]["consumedCapacity"] == {"memory": "768Mi"}
    site.ask("default", part(SHARED))
    assert site.results("default")[0]["consumedCapacity"] == {"memory": "1Gi"}
    assert site.ask("large", part(SHARED, memory="11Gi")) == ["shared"]
    assert site.ask("too-large", part(SHARED, memory="12Gi")) == []


@pytest.mark.parametrize(
    ("memory", "mode"), [("900Mi", "m16"), ("3Gi", "m5"), ("3500Mi", "m4"), ("20Gi", None), ("", "m16")]
)
def test_the_smallest_vf_that_suffices(site: Site, memory: str, mode: str | None) -> None:
    assert site.ask("vf", part(VF, memory=memory)) == ([mode] if mode else [])


def test_several_vfs_of_one_gpu(site: Site) -> None:
    same = [{"matchAttribute": "gpu.intel.com/parent"}]
    assert site.ask("nine", *[part(VF, M8)] * 9, constraints=same) == []
    assert site.ask("eight", *[part(VF, M8)] * 8, constraints=same) == ["m8"] * 8


def test_two_modes_in_one_pod_are_not_for_one_gpu(site: Site) -> None:
    assert site.ask("both", part(VF, M4), part(VF, M8)) == []
    assert site.ask("same", part(VF, M4), part(VF, M4)) == ["m4", "m4"]


def test_count_never_takes_one_device_twice(site: Site) -> None:
    assert site.ask("two", part(VF, M4, count=2)) == []


def test_capacity_names_are_taken_literally(site: Site) -> None:
    capacity = {"requests": {"gpu.intel.com/memory": "1Gi"}}
    assert site.ask("qualified", part(VF, capacity=capacity)) == []


def test_the_first_alternative_that_is_there(site: Site) -> None:
    either: Object = {
        "name": "r",
        "firstAvailable": [
            {"name": "whole", **part(WHOLE, DISCRETE)},
            {"name": "half", **part(SHARED, memory="7680Mi")},
        ],
    }
    site.ask("first", either)
    assert [each["request"] for each in site.results("first")] == ["r/whole"]
    site.give_back("first")
    site.ask("small", part(SHARED))
    site.ask("second", either)
    assert [each["request"] for each in site.results("second")] == ["r/half"]


def test_monitors_look_at_everything_while_others_work(site: Site) -> None:
    tolerations = [{"key": "gpu.intel.com/monitor-only", "operator": "Exists"}]
    monitors = part(MONITOR, adminAccess=True, allocationMode="All", tolerations=tolerations)
    site.ask("whole", part(WHOLE, DISCRETE))
    for name in ("one", "two"):
        assert site.ask(name, monitors) == ["monitor", "0000-00-02-0-0x4680-monitor"]
        assert all(each["adminAccess"] for each in site.results(name))
    assert site.ask("intolerant", part(MONITOR, adminAccess=True, allocationMode="All")) == []
    assert site.ask("nosy", part(VF, M4, adminAccess=True)) == [], "counters are checked for admin access too"


def test_a_pool_of_which_a_slice_is_missing_gives_nothing(site: Site) -> None:
    site.cluster.delete(f"{RESOURCE}/resourceslices/fake-001-gpu.intel.com-00-counters")
    assert site.ask("vf", part(VF)) == []
    counters = next(yaml.safe_load_all(read_text("examples/recommended.yaml")))
    site.cluster.create(f"{RESOURCE}/resourceslices", counters)
    settle(site.cluster, *site.actors)
    assert site.devices("vf") == ["m16"]


def test_a_device_no_longer_published_takes_no_counters(site: Site) -> None:
    """The trap: never remove a logical device that a claim holds."""
    site.ask("vf", part(VF, M4))
    path = f"{RESOURCE}/resourceslices/fake-001-gpu.intel.com-01-devices"
    devices = copy(site.cluster.get(path))
    devices["spec"]["devices"] = [each for each in devices["spec"]["devices"] if each["name"] != f"{PF}-m4"]
    site.cluster.replace(path, devices)
    assert site.ask("whole", part(WHOLE, DISCRETE)) == [PF]


def test_the_claims_of_the_examples(site: Site) -> None:
    expected = {
        "igpu-quarter": ["0000-00-02-0-0x4680"],
        "monitor-all": ["monitor", "0000-00-02-0-0x4680-monitor"],
        "shared-512m": ["shared"],
        "vf-3gi": ["m5"],
        "vf-m4-pair": ["m4", "m4"],
        "whole-discrete": [PF],
        "whole-else-vf": [PF],
    }
    site.cluster.load(read_text("examples/04-claims.yaml"))
    for name, devices in expected.items():
        assert site.use(name) == devices
        site.give_back(name)


def test_without_counters_a_plain_claim_takes_all() -> None:
    site = Site()
    site.cluster.create("/api/v1/nodes", {"metadata": {"name": "fake-002"}})
    site.cluster.load(read_text("examples/06-no-counters.yaml"))
    for name in ("counters", "devices"):
        number = "00" if name == "counters" else "01"
        site.cluster.delete(f"{RESOURCE}/resourceslices/fake-001-gpu.intel.com-{number}-{name}")
    assert site.ask("budget", part(WHOLE, memory="2Gi")) == [PF]
    assert site.ask("whole", part(WHOLE)) == []
    site.give_back("budget")
    assert site.devices("whole") == [PF]
    assert site.ask("more", part(WHOLE, memory="2Gi")) == []
    assert site.ask("pinned", part(VF, count=4)) == [f"0000-b7-00-0-0x56c0-m4-vf{number}" for number in range(4)]
