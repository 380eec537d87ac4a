"""Kubelets of classic releases against a driver on real sockets.

Tests named after a recording of Kubernetes 1.26.5 expect the calls that the real kubelet made then: the same
methods, for the same claims, in the same order.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import grpc
import pytest

from kubesim.actors.kubelet import wire
from tests.kubesim.actors.bench import FAST, eventually
from tests.kubesim.actors.classic_bench import ClassicBench, claim_spec, classic_bench
from tests.kubesim.actors.classic_replay import recording
from tests.kubesim.actors.driver import NAME, Call, Driver, Failure

A_YEAR = 366 * 86400.0
"""Seconds. Where there is no deadline, grpc tells servers one that is farther away than this."""
ALPHA1, ALPHA2, ALPHA3 = "v1alpha1.Node", "v1alpha2.Node", "v1alpha3.Node"


def recorded(name: str) -> list[str]:
    """Prepares and Unprepares, each with its claim."""
    lines = [
        line for line in recording(f"{name}.grpc.jsonl") if "Node.Node" in line.get("method", "").replace("/", ".")
    ]
    return [f"{line['method'].rpartition('/')[2]}['{line['request']['claim_name']}']" for line in lines]


def begin(made: ClassicBench) -> None:
    """The driver, registered."""
    made.driver.start()
    made.until_registered()


def calls(driver: Driver) -> list[Call]:
    return [call for call in driver.calls if call.claims]


def test_a_and_c_a_call_for_each_claim_as_recorded_to_the_byte() -> None:
    with classic_bench() as made:
        begin(made)
        made.add_pod("c-pod", entries=("gpu-a", "gpu-b"))
        made.until_phase("c-pod", "Running")
        claims = {each["metadata"]["name"]: each["metadata"]["uid"] for each in made.claims()}
        running = made.kubelet.containers("rec", "c-pod")
        assert running is not None
        assert {each.nodes for each in running.values()} == {tuple(f"/dev/dri/{uid}" for uid in claims.values())}
        made.delete_pod("c-pod")
        eventually("released", lambda: not made.claims())
    assert made.driver.told() == recorded("c-two-claims")
    for call in calls(made.driver):
        [(uid, name)] = zip(call.claim_uids, call.claims, strict=True)
        handle = f"handle of {name}" if call.method == "NodePrepareResource" else f"{NAME}/gpu={uid}"
        assert call.request == b"".join(
            wire.text(at, each) for at, each in enumerate(("rec", uid, name, handle), 1)
        )
        assert call.service == ALPHA1
        assert call.deadline is None or call.deadline > A_YEAR


@pytest.mark.parametrize(
    ("release", "services", "expected"),
    [
        ("1.27", None, [(ALPHA2, "NodePrepareResource", 1)] * 2),
        ("1.28", None, [(ALPHA3, "NodePrepareResources", 2)]),
        ("1.30", (ALPHA2,), [(ALPHA2, "NodePrepareResource", 1)] * 2),
        ("1.31", None, [(ALPHA3, "NodePrepareResources", 2)]),
    ],
)
def test_later_kubelets(
    release: str, services: tuple[str, ...] | None, expected: list[tuple[str, str, int]]
) -> None:
    with classic_bench(release) as made:
        made.driver.services = services
        begin(made)
        made.add_pod("p", entries=("gpu-a", "gpu-b"))
        made.until_phase("p", "Running")
        names = sorted(each["metadata"]["name"] for each in made.claims())
        running = made.kubelet.containers("rec", "p")
        assert running is not None
        assert all(len(each.nodes) == 2 for each in running.values())
        pod = made.pod("p")
        assert pod is not None
        told = sorted(each["resourceClaimName"] for each in pod["status"].get("resourceClaimStatuses", ()))
        assert told == ([] if release == "1.27" else names)
        assert bool(re.fullmatch(r"p-gpu-a-[a-z0-9]{5}", names[0])) == (release != "1.27")
        made.delete_pod("p")
        eventually("released", lambda: not made.claims())
    prepares = [call for call in calls(made.driver) if "Unprepare" not in call.method]
    assert [(call.service, call.method, len(call.claims)) for call in prepares] == expected
    given_back = [call for call in calls(made.driver) if "Unprepare" in call.method]
    assert [(each.service, each.method.replace("Unp", "P"), len(each.claims)) for each in given_back] == expected
    handles = {name: f"handle of {name}".encode() in b"".join(call.request for call in prepares) for name in names}
    assert set(handles.values()) == {release != "1.31"}


def test_f_a_shared_claim_is_prepared_for_its_first_pod_and_given_back_after_its_last() -> None:
    with classic_bench() as made:
        begin(made)
        for claim, pods in (
            ("f-claim", ("f-1", "f-2")),
            ("f-claim", ("f-3",)),
            ("f-excl", ("f-4",)),
            ("f-excl", ("f-5",)),
        ):
            if claim not in {each["metadata"]["name"] for each in made.claims()}:
                made.add_claim(claim)
            for name in pods:
                made.add_pod(name, claim=claim)
                made.until_phase(name, "Running")
            for name in pods:
                made.delete_pod(name)
                made.until_phase(name, "gone")
        assert all("allocation" in each["status"] for each in made.claims())
    assert made.driver.told() == recorded("f-shared-claim")


def test_b_immediate_claims() -> None:
    with classic_bench() as made:
        begin(made)
        spec = {"spec": claim_spec(26, mode="Immediate")}
        made.api.create("resourceclaimtemplates", "rec", {"metadata": {"name": "imm"}, "spec": spec})
        made.add_claim("b-claim", mode="Immediate")
        made.add_pod("b-pod", claim="b-claim")
        made.until_phase("b-pod", "Running")
        made.delete_pod("b-pod")
        made.until_phase("b-pod", "gone")
        made.add_pod("b-pod2", resourceClaims=[{"name": "gpu", "source": {"resourceClaimTemplateName": "imm"}}])
        made.until_phase("b-pod2", "Running")
        made.delete_pod("b-pod2")
        made.until_phase("b-pod2", "gone")
    assert made.driver.told() == recorded("b-immediate-allocation")


def once(*answers: Callable[[], bytes]) -> Callable[[str, Mapping[str, str]], bytes]:
    """These answers one after the other, then nothing said and nothing wrong."""
    left = list(answers)
    return lambda _method, _claims: left.pop(0)() if left else b""


def fail(details: str) -> Callable[[], bytes]:
    def answer() -> bytes:
        raise Failure(grpc.StatusCode.INTERNAL, details)

    return answer


def test_h_errors_are_retried_but_nothing_is_an_answer_too() -> None:
    busy = fail("device has not converged yet")
    with classic_bench() as made:
        made.driver.answers["NodePrepareResource"] = once(busy, busy)
        made.driver.answers["NodeUnprepareResource"] = once(fail("device is busy"))
        begin(made)
        made.add_claim("h", mode="Immediate")
        made.add_pod("h-pod", claim="h")
        why = 'failed to parse CDI device annotations: invalid CDI device name ""'
        words = f"failed to create containerd container: {why}"
        eventually("refused", lambda: made.events("Failed").count(f"Error: {words}") > 2)
        [claim], pod = made.claims(), made.pod("h-pod")
        assert pod is not None
        said = {"reason": "CreateContainerError", "message": words}
        assert pod["status"]["containerStatuses"][0]["state"] == {"waiting": said}
        made.delete_pod("h-pod")
        made.until_phase("h-pod", "gone")
    assert made.driver.told() == recorded("h-prepare-errors")
    known = next(line["object"]["message"] for line in recording("h-prepare-errors.jsonl") if _failed(line))
    handle = re.compile(r"claim UID: \S+, claim name: h, resource handle: .*, err")
    uid = claim["metadata"]["uid"]
    expected = handle.sub(f"claim UID: {uid}, claim name: h, resource handle: handle of h, err", known)
    assert made.events("Failed")[0] == expected


def _failed(line: Mapping[str, object]) -> bool:
    return "NodePrepareResource failed" in str(line.get("object")) and "'Event'" in str(line.get("object"))


def test_i_after_a_restart_nothing_is_given_back_and_an_absent_driver_is_waited_for() -> None:
    with classic_bench() as made:
        begin(made)
        made.add_claim("i", mode="Immediate")
        made.add_pod("i-pod", claim="i")
        made.until_phase("i-pod", "Running")
        made.driver.stop()
        made.driver.start()
        made.until_registered(2)
        made.kubelet.restart()
        made.until_registered(3)
        made.delete_pod("i-pod")
        made.until_phase("i-pod", "gone")
        assert len(made.driver.told()) == 1
        made.driver.stop()
        made.add_pod("i-pod2", claim="i")
        found = f"plugin name {NAME} not found in the list of registered DRA plugins"
        words = f"Error: failed to get DRA Plugin client for plugin name {NAME}, err={found}"
        eventually("refused", lambda: words in made.events("Failed"), made.events)
        made.driver.start()
        made.until_phase("i-pod2", "Running")
        made.delete_pod("i-pod2", force=True)
        made.until_told(3)
    assert made.driver.told() == recorded("i-restarts")


def test_j_prepared_again_only_after_a_reboot() -> None:
    with classic_bench() as made:
        begin(made)
        made.add_claim("j", mode="Immediate")
        made.add_pod("j-pod", claim="j")
        made.until_phase("j-pod", "Running")
        made.kubelet.restart_containers("rec", "j-pod")
        eventually("restarted", lambda: _restarts(made) == 1)
        made.kubelet.power_off()
        made.kubelet.start()
        eventually("restarted", lambda: _restarts(made) == 2)
        made.delete_pod("j-pod")
        made.until_phase("j-pod", "gone")
    assert made.driver.told() == recorded("j-container-and-sandbox-restart")


def _restarts(made: ClassicBench) -> int:
    pod = made.pod("j-pod")
    assert pod is not None
    count: int = pod["status"]["containerStatuses"][0].get("restartCount", 0)
    return count


@pytest.mark.parametrize("release", ["1.26", "1.28"])
def test_each_driver_is_asked_for_its_own_claims(release: str) -> None:
    with classic_bench(release) as made:
        other = Driver(root=made.root, cdi=made.cdi, name="other.example.com", versions=("1.0.0",), plain=True)
        begin(made)
        other.start()
        made.closing.callback(other.stop)
        made.until_registered(driver=other)
        made.api.create("resourceclasses", "", {"metadata": {"name": "other"}, "driverName": other.name})
        made.add_claim("ours")
        made.api.create(
            "resourceclaims", "rec", {"metadata": {"name": "theirs"}, "spec": {"resourceClassName": "other"}}
        )
        entries = [{"name": name, "source": {"resourceClaimName": name}} for name in ("ours", "theirs", "unused")]
        entries[2]["source"] = {"resourceClaimName": "ours"}  # the same claim by another name
        made.add_pod("p", entries=("ours", "theirs"), resourceClaims=entries)
        made.until_phase("p", "Running")
        running = made.kubelet.containers("rec", "p")
        assert running is not None
        assert len(running["c0"].nodes) == 2
        made.delete_pod("p")
        made.until_phase("p", "gone")
    plural = "" if release == "1.26" else "s"
    for driver, claim in ((made.driver, "ours"), (other, "theirs")):
        expected = [f"Node{verb}Resource{plural}['{claim}']" for verb in ("Prepare", "Unprepare")]
        assert driver.told() == expected


def test_since_1_27_a_restarted_kubelet_gives_back() -> None:
    with classic_bench("1.27") as made:
        begin(made)
        made.add_pod("p")
        made.until_phase("p", "Running")
        made.kubelet.restart()
        made.until_registered(2)
        made.delete_pod("p")
        made.until_phase("p", "gone")
    assert made.driver.told() == ["NodePrepareResource['p-gpu']", "NodeUnprepareResource['p-gpu']"]


def cases() -> dict[tuple[str, ...], set[str]]:
    """What the recorded kubelet said to each list of versions."""
    found: dict[tuple[str, ...], set[str]] = {}
    versions: tuple[str, ...] | None = None
    for line in recording("g-registration.grpc.jsonl"):
        if "case" in line:
            plain = line["case"].startswith("supported_versions ")
            versions = tuple(re.findall(r"'([^']+)'", line["case"])) if plain else None
        elif versions is not None and line["method"].endswith("NotifyRegistrationStatus"):
            said = line["request"].get("error") or f"registered {line['request'].get('plugin_registered')}"
            found.setdefault(versions, set()).add(said)
    return found


@pytest.mark.parametrize("versions", cases())
def test_g_versions(versions: tuple[str, ...]) -> None:
    with classic_bench() as made:
        made.driver.versions = versions
        made.driver.start()
        eventually("answered", lambda: bool(made.driver.notices))
        [said] = set(made.driver.notices)
    endpoint = re.compile(r"at endpoint [^:]+")
    assert {endpoint.sub("at endpoint ?", said)} == {
        endpoint.sub("at endpoint ?", each) for each in cases()[versions]
    }


def test_g_a_second_instance_must_be_newer() -> None:
    with classic_bench(timing=replace(FAST, first_back_off=0.001)) as made:
        begin(made)
        second = Driver(root=made.root, cdi=made.cdi, suffix="-2", versions=("1.0.0",), plain=True)
        second.start()
        made.closing.callback(second.stop)
        eventually("refused", lambda: any("already registered" in each for each in second.notices))
        second.versions = ("1.1.0",)
        made.until_registered(driver=second)
        made.add_pod("p")
        made.until_phase("p", "Running")
        assert (len(made.driver.told()), len(second.told())) == (0, 1)


def test_a_pod_is_not_left_on_an_unsuitable_node() -> None:
    with classic_bench() as made:
        begin(made)
        made.add_pod("stuck", nodeSelector={"spare": "yes"})
        made.add_pod("p", entries=(), nodeSelector={"spare": "no"})  # uses no claims
        unsuitable = "resourceclaim cannot be allocated for the node (unsuitable)"
        eventually("told", lambda: any(unsuitable in each for each in made.events("FailedScheduling")))
        made.delete_pod("stuck")
        made.until_phase("p", "Running")
        eventually("released", lambda: not made.claims())
        assert made.driver.told() == []
