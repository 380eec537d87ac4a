"""Whatever people do in whatever order: nothing is allocated twice or held for nobody, and what can run runs."""

from collections import Counter, defaultdict
from fractions import Fraction
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kubesim.quantities import quantity
from tests.kubesim.actors.test_control_plane import DRIVER, Site, request

Object = dict[str, Any]
VF, WHOLE = f"device.attributes['{DRIVER}'].type == 'vf'", f"device.attributes['{DRIVER}'].type == 'whole'"
SHARES, CARDS = 3, 2


def card(name: str) -> list[Object]:
    """Like a GPU: whole, or in three parts, and one token says which."""
    token = [{"counterSet": name, "counters": {"mode": {"value": "1"}}}]
    policy = {"default": "1", "validValues": ["1"]}
    parts = {
        "name": f"{name}-vf",
        "allowMultipleAllocations": True,
        "attributes": {"type": {"string": "vf"}, "card": {"string": name}},
        "capacity": {"vfs": {"value": str(SHARES), "requestPolicy": policy}},
        "consumesCounters": token,
    }
    whole = {
        "name": name,
        "attributes": {"type": {"string": "whole"}, "card": {"string": name}},
        "consumesCounters": token,
    }
    return [parts, whole]


class AnyOrder(RuleBasedStateMachine):
    """People make and delete pods and claims; the control plane is let act now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.site = Site(nodes=("n1", "n2"))
        self.number = 0
        template = {"spec": {"devices": {"requests": [request("r", VF)]}}}
        self.site.api.create("resourceclaimtemplates", "default", {"metadata": {"name": "vf"}, "spec": template})
        for node in ("n1", "n2"):
            pool = {"name": node, "resourceSliceCount": 2}
            names = [f"{node}-{number}" for number in range(CARDS)]
            devices = [device for name in names for device in card(name)]
            self.site.publish(f"{node}-devices", *devices, pool=pool, nodeName=node)
            counters = [{"name": name, "counters": {"mode": {"value": "1"}}} for name in names]
            whole = {"name": node, "generation": 1, "resourceSliceCount": 2}
            spec = {"driver": DRIVER, "nodeName": node, "pool": whole, "sharedCounters": counters}
            self.site.api.create("resourceslices", "", {"metadata": {"name": f"{node}-counters"}, "spec": spec})

    def _name(self, kind: str) -> str:
        self.number += 1
        return f"{kind}-{self.number}"

    @rule(expressions=st.lists(st.sampled_from((VF, WHOLE)), min_size=1, max_size=2))
    def make_claim(self, expressions: list[str]) -> None:
        requests = [request(f"r{number}", each) for number, each in enumerate(expressions)]
        self.site.claim(self._name("claim"), *requests)

    @rule(data=st.data())
    def make_pod(self, data: st.DataObject) -> None:
        named = [each["metadata"]["name"] for each in self.site.api.all("resourceclaims")]
        plain = [each for each in named if each.startswith("claim-")]
        chosen = data.draw(st.lists(st.sampled_from(plain), max_size=2, unique=True)) if plain else []
        uses = [{"name": each, "resourceClaimName": each} for each in chosen]
        uses += [{"name": "own", "resourceClaimTemplateName": "vf"}] if data.draw(st.booleans()) else []
        spec = {"containers": [{"name": "c", "image": "x:1"}], "resourceClaims": uses}
        self.site.api.create("pods", "default", {"metadata": {"name": self._name("pod")}, "spec": spec})

    @precondition(lambda self: self.site.api.all("pods"))
    @rule(data=st.data(), completed=st.booleans())
    def end_pod(self, data: st.DataObject, completed: bool) -> None:
        pod = data.draw(st.sampled_from(self.site.api.all("pods")))
        if completed and pod["spec"].get("nodeName"):
            self.site.api.patch("pods", pod, {"status": {"phase": "Succeeded"}}, "status")
        else:
            self.site.api.delete("pods", pod, grace=0)

    @precondition(lambda self: self.site.api.all("resourceclaims"))
    @rule(data=st.data())
    def delete_claim(self, data: st.DataObject) -> None:
        self.site.api.delete("resourceclaims", data.draw(st.sampled_from(self.site.api.all("resourceclaims"))))

    @rule(actor=st.integers(0, 3))
    def one_acts(self, actor: int) -> None:
        self.site.actors[actor].step()

    @rule()
    def all_act(self) -> None:
        self.site.settle()
        self._nobody_holds_for_nobody()
        self._what_can_run_runs()

    @invariant()
    def nothing_is_given_twice(self) -> None:
        whole: Counter[str] = Counter()
        parts: dict[str, Fraction] = defaultdict(Fraction)
        for claim in self.site.api.all("resourceclaims"):
            for result in self.site.results(claim["metadata"]["name"]):
                if "shareID" in result:
                    parts[result["device"].removesuffix("-vf")] += quantity(result["consumedCapacity"]["vfs"])
                else:
                    whole[result["device"]] += 1
        assert all(count == 1 for count in whole.values())
        assert all(taken <= SHARES for taken in parts.values())
        assert not set(whole) & set(parts), "whole and in parts at once"

    def _nobody_holds_for_nobody(self) -> None:
        pods = {each["metadata"]["uid"]: each for each in self.site.api.all("pods")}
        for claim in self.site.api.all("resourceclaims"):
            for consumer in claim.get("status", {}).get("reservedFor", ()):
                assert pods[consumer["uid"]]["status"]["phase"] != "Succeeded"
            if "allocation" in claim.get("status", {}):
                assert claim["status"].get("reservedFor"), "allocated for nobody"
            else:
                assert "deletionTimestamp" not in claim["metadata"], "deletion waits for nothing"

    def _what_can_run_runs(self) -> None:
        """A pod without claims always can; one that waits alone for one VF can if a card is idle."""
        for pod in self.site.api.all("pods"):
            if not pod["spec"].get("resourceClaims"):
                assert pod["spec"].get("nodeName")
        busy = {
            result["device"].removesuffix("-vf")
            for claim in self.site.api.all("resourceclaims")
            for result in self.site.results(claim["metadata"]["name"])
        }
        if len(busy) < CARDS * 2:
            for pod in self.site.api.all("pods"):
                uses = pod["spec"].get("resourceClaims") or []
                if len(uses) == 1 and "resourceClaimTemplateName" in uses[0]:
                    assert pod["spec"].get("nodeName"), pod["status"]


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=25, stateful_step_count=20)
