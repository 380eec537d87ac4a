"""People's words on GPUs, given with kubectl: what each does before a GPU is used and while it is, and refusals.

Each test has GPUs of its own on one machine, so that none has to tidy up after itself.
"""

from collections.abc import Iterator

import pytest

from hack.lab.cluster import Lab
from tests.cluster.nodes import B60, JsonObject, Node, address_of, gpu_at, machine_of

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    # Of connections that clients break while the simulated server shakes hands, in that server.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BUSES = [f"{number:02x}" for number in range(3, 3 + 28)]
FLEXES, B60S = BUSES[:20], BUSES[20:]


class Gpus:
    """Hands out GPUs that no test had before."""

    def __init__(self) -> None:
        self._flexes = iter(FLEXES)
        self._b60s = iter(B60S)

    def flex(self) -> str:
        return gpu_at(next(self._flexes))

    def b60(self) -> str:
        return gpu_at(next(self._b60s), B60)


@pytest.fixture(name="gpus", scope="module")
def fixture_gpus() -> Gpus:
    return Gpus()


@pytest.fixture(name="site", scope="module")
def fixture_site(lab: Lab) -> Node:
    models = {**dict.fromkeys(FLEXES, "flex170"), **dict.fromkeys(B60S, "b60")}
    machine = lab.add_node("node-a", machine_of(lab.where, models))
    lab.start_controller()
    agent = lab.start_agent("node-a", "--linger-seconds", "0", "--resync-seconds", "10")
    site = Node(lab, "node-a", machine, agent)
    site.until("ready", lambda: site.condition("Ready").get("status") == "True")
    return site


@pytest.fixture(name="node")
def fixture_node(site: Node) -> Iterator[Node]:
    yield site
    site.wish()
    site.nobody_uses_anything()


# -- the whole node ----------------------------------------------------------------------------------------


def test_paused_before_use(node: Node, gpus: Gpus) -> None:
    gpu = gpus.flex()
    node.wish(paused=True)
    claim = node.claim(f"{gpu}-m4")
    node.until_phase("Pending", claim)
    assert "paused" in node.allocation(claim.uid)["message"]
    assert node.num_vfs(gpu) == 0
    assert node.columns()["PAUSED"] == "true"
    node.wish(paused=False)
    node.until_phase("Ready", claim)
    assert node.num_vfs(gpu) == 4


def test_paused_during_use(node: Node, gpus: Gpus) -> None:
    gpu = gpus.flex()
    used, known = node.claim(f"{gpu}-m4"), node.claim(f"{gpu}-m4")
    node.until_phase("Ready", used, known)
    node.prepare(used)
    node.wish(paused=True)
    node.until("paused", lambda: node.spec["paused"] and node.status["observedGeneration"] >= 1)
    node.prepare(known)
    assert [node.phase(claim.uid) for claim in (used, known)] == ["Ready", "Ready"]
    for claim in (used, known):
        node.give_back(claim)
        node.unprepare(claim)


def test_lingering(node: Node, gpus: Gpus) -> None:
    gpu = gpus.flex()
    done = node.edit({"policy": {"lingerSeconds": 600}})
    assert (done.code, "edited" in done.out) == (0, True), done.err
    claim = node.claim(f"{gpu}-m2")
    node.until_phase("Ready", claim)
    node.give_back(claim)
    node.until_gone(claim)
    assert node.num_vfs(gpu) == 2
    assert node.cdi(f"claim-{claim.uid}") is None
    node.wish(policy={"lingerSeconds": 0})
    node.until("turned off", lambda: node.num_vfs(gpu) == 0)


# -- single GPUs -------------------------------------------------------------------------------------------


def override(gpu: str, mode: str, **more: object) -> list[dict[str, object]]:
    return [{"device": gpu, "mode": mode, **more}]


M8 = {"profile": "m8"}


def test_fixed_layout_before_use(node: Node, gpus: Gpus) -> None:
    gpu = gpus.flex()
    assert node.edit({"overrides": override(gpu, "Fixed", virtualFunctions=M8, reason="streaming")}).code == 0
    node.until("waiting", lambda: "waits for the controller to confirm" in node.blocked())
    node.until("made", lambda: node.device(gpu)["sriov"].get("layout") == "flex170_m8" and not node.blocked())
    assert node.num_vfs(gpu) == 8
    assert node.device(gpu)["override"] == "Fixed"
    assert f"{gpu}: Fixed" in node.condition("Overridden")["message"]
    node.until("told", lambda: any(gpu in note for note in node.events("Overridden")))
    claim = node.claim(f"{gpu}-m8")
    node.until_phase("Ready", claim)
    node.give_back(claim)
    node.until_gone(claim)
    assert node.num_vfs(gpu) == 8
    node.wish()
    node.until("turned off", lambda: node.num_vfs(gpu) == 0)


def test_fixed_layout_during_use(node: Node, gpus: Gpus) -> None:
    gpu = gpus.flex()
    claim = node.claim(f"{gpu}-m4")
    node.until_phase("Ready", claim)
    node.prepare(claim)
    node.wish(overrides=override(gpu, "Fixed", virtualFunctions=M8))
    node.until("blocked", lambda: f"waits for claim default/{claim.name}" in node.blocked())
    node.until("shown", lambda: node.columns()["BLOCKED"] == "1")
    node.give_back(claim)
    node.until("let go", lambda: not node.entry(claim))
    assert node.num_vfs(gpu) == 4
    node.unprepare(claim)
    node.until("changed", lambda: node.num_vfs(gpu) == 8 and not node.blocked())


def test_a_claim_that_was_quicker_comes_before_an_override(node: Node, gpus: Gpus) -> None:
    """What a scheduler allocated before it saw the GPU withdrawn can't be taken back."""
    gpu = gpus.flex()
    node.wish(overrides=override(gpu, "Fixed", virtualFunctions=M8))
    claim = node.claim(f"{gpu}-m4")
    node.until_phase("Ready", claim)
    node.until("blocked", lambda: f"waits for claim default/{claim.name}" in node.blocked())
    node.give_back(claim)
    node.until("changed", lambda: node.num_vfs(gpu) == 8)


def test_fixed_without_vfs(node: Node, gpus: Gpus) -> None:
    before, during = gpus.flex(), gpus.flex()
    used = node.claim(f"{during}-m4")
    node.until_phase("Ready", used)
    node.prepare(used)
    overrides = override(before, "Fixed", reason="whole only") + override(during, "Fixed")
    node.wish(overrides=overrides, manualAllocations=[manual("vf", f"{before}-m4-vf0")])
    node.until("blocked", lambda: "whole only" in node.allocation("vf").get("message", ""))
    node.until("blocked", lambda: f"waits for claim default/{used.name}" in node.blocked())
    assert (node.num_vfs(before), node.num_vfs(during)) == (0, 4)
    node.wish(overrides=overrides, manualAllocations=[manual("all", before)])
    node.until_phase("Ready", "all")
    node.give_back(used)
    node.unprepare(used)
    node.until("turned off", lambda: node.num_vfs(during) == 0)


def test_drain(node: Node, gpus: Gpus) -> None:
    before, during = gpus.flex(), gpus.flex()
    used = node.claim(f"{during}-m4")
    node.until_phase("Ready", used)
    node.prepare(used)
    overrides = [*override(before, "Drain"), *override(during, "Drain", reason="fan")]
    assert node.edit({"overrides": overrides}).code == 0
    node.until_withdrawn(before)
    assert during in node.status["withdrawn"]
    assert node.patch({"manualAllocations": [manual("a", before), manual("b", f"{during}-m4-vf3")]}).code == 0
    node.until_phase("Blocked", "a", "b")
    assert "drained by spec.overrides[1] (fan)" in node.allocation("b")["message"]
    assert node.phase(used.uid) == "Ready"
    node.give_back(used)
    node.unprepare(used)
    node.until("empty", lambda: node.num_vfs(during) == 0)
    assert node.patch({"overrides": None}).code == 0
    node.until_phase("Ready", "a", "b")


def test_ignore(node: Node, gpus: Gpus) -> None:
    """Hands off: what is there stays, even after its user has gone."""
    before, during = gpus.flex(), gpus.flex()
    used = node.claim(f"{during}-m4")
    node.until_phase("Ready", used)
    node.prepare(used)
    node.wish(overrides=override(before, "Ignore") + override(during, "Ignore"))
    node.until_withdrawn(before)
    assert node.patch({"manualAllocations": [manual("a", f"{before}-m4-vf0")]}).code == 0
    node.until_phase("Blocked", "a")
    assert "left alone by spec.overrides[0]" in node.allocation("a")["message"]
    assert node.phase(used.uid) == "Ready"
    node.give_back(used)
    node.unprepare(used)
    node.until_gone(used)
    assert (node.num_vfs(before), node.num_vfs(during)) == (0, 4)
    node.wish()
    node.until("turned off", lambda: node.num_vfs(during) == 0)


def test_kernel_driver(node: Node, gpus: Gpus) -> None:
    before, during = gpus.b60(), gpus.b60()
    used = node.claim(during)
    node.until_phase("Ready", used)
    node.prepare(used)
    node.wish(
        overrides=override(before, "Fixed", kernelDriver="vfio")
        + override(during, "Fixed", kernelDriver="xe-vfio")
    )
    node.until("bound", lambda: node.driver(before) == "vfio-pci")
    node.until("blocked", lambda: during in node.blocked())
    assert node.driver(during) == "xe"
    node.until("told", lambda: node.device(before).get("originalDriver") == "xe")
    node.give_back(used)
    node.unprepare(used)
    node.until("bound", lambda: node.driver(during) == "xe-vfio-pci")
    node.wish()
    node.until("as before", lambda: (node.driver(before), node.driver(during)) == ("xe", "xe"))


def test_vfs_of_somebody_else_are_adopted_by_their_layout(node: Node, gpus: Gpus) -> None:
    gpu = gpus.b60()
    node.happen(f"foreign-numvfs {address_of(gpu)} 3")
    claim = node.claim(gpu)
    node.until_phase("Blocked", claim)
    assert "somebody else" in node.allocation(claim.uid)["message"]
    node.give_back(claim)
    node.wish(overrides=override(gpu, "Fixed", virtualFunctions={"profile": "fs3"}))
    node.until("adopted", lambda: node.device(gpu)["sriov"].get("owner") == "ours")
    assert node.num_vfs(gpu) == 3
    node.wish()
    node.until("turned off", lambda: node.num_vfs(gpu) == 0)


def test_a_driver_that_somebody_else_bound_is_taken_over(lab: Lab, node: Node) -> None:
    with lab.scope():
        machine = lab.add_node("node-b", machine_of(lab.where, {"03": "b60"}, bound="vfio-pci"))
        passed, other = gpu_at("03", B60), Node(lab, "node-b", machine, lab.start_agent("node-b"))
        other.until("there", lambda: other.status.get("devices"))
        claim = other.claim(f"{passed}-fs2")
        other.until_phase("Blocked", claim)
        other.wish(overrides=override(passed, "Managed", kernelDriver="drm"))
        other.until_phase("Ready", claim)
        assert (other.driver(passed), other.num_vfs(passed)) == ("xe", 2)


# -- manual allocations ------------------------------------------------------------------------------------


def manual(name: str, device: str, **more: object) -> dict[str, object]:
    return {"name": name, "devices": [{"device": device, **more}]}


def test_manual_allocations_before_use(node: Node, gpus: Gpus) -> None:
    flex, whole, shared = gpus.flex(), gpus.b60(), gpus.b60()
    node.wish(
        manualAllocations=[
            manual("whole", whole),
            manual("one", f"{shared}-shared", memory="2Gi"),
            manual("two", f"{shared}-shared", memory="4Gi"),
            manual("vf", f"{flex}-m4-vf2"),
            manual("looks", f"{whole}-monitor", adminAccess=True),
        ]
    )
    node.until_phase("Ready", "whole", "one", "two", "vf", "looks")
    assert node.num_vfs(flex) == 4
    for name in ("whole", "one", "two", "vf", "looks"):
        assert node.cdi(f"alloc-{name}") is not None
        assert f"intel.com/gpu={name}" in node.allocation(name)["cdiDevices"]
    assert node.columns()["MANUAL"] == "5"
    node.wish()
    node.until("gone", lambda: not node.phase("whole") and node.num_vfs(flex) == 0)
    assert node.cdi("alloc-whole") is None


def test_manual_allocations_during_use(node: Node, gpus: Gpus) -> None:
    gpu = gpus.flex()
    claim = node.claim(f"{gpu}-m4")
    node.until_phase("Ready", claim)
    node.prepare(claim)
    node.wish(manualAllocations=[manual("me", gpu), manual("looks", f"{gpu}-monitor", adminAccess=True)])
    node.until_phase("Blocked", "me")
    node.until_phase("Ready", "looks")
    assert f"default/{claim.name}" in node.allocation("me")["message"]
    node.give_back(claim)
    node.unprepare(claim)
    node.until_phase("Ready", "me")
    assert node.num_vfs(gpu) == 0


# -- releases ----------------------------------------------------------------------------------------------


def test_release(node: Node, gpus: Gpus) -> None:
    """The mark of a kubelet that forgot its pod holds a GPU until a person says that nobody has it any more."""
    gpu = gpus.flex()
    claim = node.claim(f"{gpu}-m4")
    node.until_phase("Ready", claim)
    nonce = node.prepare(claim)
    node.give_back(claim)
    late = node.claim(gpu)
    node.until_phase("Blocked", late)
    assert node.edit({"releases": [claim.uid]}).code == 0
    node.until("told", lambda: node.status_file().get("releasedMarks", {}).get(claim.uid) == nonce)
    node.unprepare(claim)  # as the plugin does when it is told so
    node.until_phase("Ready", late)
    assert node.num_vfs(gpu) == 0


def test_release_before_use(node: Node, gpus: Gpus) -> None:
    """An entry that nobody uses is simply dropped, while its claim exists."""
    gpu = gpus.flex()
    claim = node.claim(f"{gpu}-m4")
    node.until_phase("Ready", claim)
    node.wish(releases=[claim.uid])
    node.until("dropped", lambda: node.phase(claim.uid) != "Ready")
    node.until("turned off", lambda: node.num_vfs(gpu) == 0)


# -- refusals ----------------------------------------------------------------------------------------------


def test_refused_at_admission(node: Node, gpus: Gpus) -> None:
    gpu = gpus.flex()
    refused: dict[str, JsonObject] = {
        "needs mode Fixed": {"overrides": override(gpu, "Drain", virtualFunctions=M8)},
        'supported values: "Managed", "Fixed", "Drain", "Ignore"': {"overrides": override(gpu, "drained")},
        "does not say which VF": {"manualAllocations": [manual("a", f"{gpu}-m4")]},
        "a monitor device needs adminAccess: true": {"manualAllocations": [manual("a", f"{gpu}-monitor")]},
        "is no UID of a claim": {"releases": ["default/claim"]},
        "should be less than or equal to 86400": {"policy": {"lingerSeconds": 10**6}},
    }
    for words, spec in refused.items():
        done = node.patch(spec)
        assert (done.code, words in done.err) == (1, True), (words, done.err)
    assert not node.spec.keys() & {"overrides", "manualAllocations", "releases", "policy"}


def test_an_edit_that_is_refused_is_shown_to_the_editor_again(node: Node, gpus: Gpus) -> None:
    done = node.edit({"overrides": override(gpus.flex(), "Drain", kernelDriver="nvidia")})
    assert done.code == 1
    assert "no valid changes" in done.err


def test_refused_by_the_engine(node: Node, gpus: Gpus) -> None:
    """What only the machine can tell: the entry is Refused, with what is allowed; others go on."""
    gpu = gpus.flex()
    node.wish(
        overrides=override("0000-99-00-0-0x56c0", "Drain"),
        manualAllocations=[
            manual("nowhere", "0000-99-00-0-0x56c0"),
            manual("fifth", f"{gpu}-m4-vf4"),
            manual("wrong", f"{gpu}-fs2-vf0", kernelDriver="xe-vfio"),
            manual("good", f"{gpu}-m4-vf0"),
        ],
    )
    node.until_phase("Refused", "nowhere", "fifth", "wrong")
    node.until_phase("Ready", "good")
    assert "out of range" in node.allocation("fifth")["message"]
    assert gpu in node.allocation("nowhere")["message"]
    assert "there is no GPU" in node.blocked()
    columns = node.columns()
    assert columns["READY"] == "False"
    assert "Refused" in columns["REASON"]
    node.until("told", lambda: any("fifth" in note for note in node.events("Refused")))
