"""The kubelet against a driver on real sockets. Every test named after a recording expects the calls that the real
kubelet made then: the same methods, for the same claims, in the same order for each claim.

Not compared: how calls for different pods interleave, how often a health stream that a driver does not serve is
asked for, and times; the times are those of `Timing`, fifty times shorter.
"""

import json
import random
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc
import pytest

from kubesim.actors.kubelet import DEVICES_ANNOTATION
from tests.kubesim.actors.bench import FAST, NAMESPACE, RESOURCE, SCALE, Bench, bench, eventually
from tests.kubesim.actors.driver import NAME, Answer, Driver, Failure, prepared, unprepared
from tests.kubesim.actors.replay import recording

RANDOM_END = re.compile(r"(-gpu|-a|-extended-resources)-[a-z0-9]{5}$")
CALLS = ("NodePrepareResources", "NodeUnprepareResources")


def recorded(name: str) -> dict[str, list[str]]:
    """The methods called for each claim."""
    told: dict[str, list[str]] = {}
    for line in recording(f"{name}.grpc.jsonl"):
        method = line.get("method", "").rpartition("/")[2]
        for claim in line["request"]["claims"] if method in CALLS else ():
            told.setdefault(plain(claim["name"]), []).append(method)
    return told


def told(*drivers: Driver) -> dict[str, list[str]]:
    """The same of the calls here."""
    found: dict[str, list[str]] = {}
    for call in sorted((call for driver in drivers for call in driver.calls), key=lambda call: call.at):
        for claim in call.claims:
            found.setdefault(plain(claim), []).append(call.method)
    return found


def plain(claim: str) -> str:
    return RANDOM_END.sub(r"\1-?", claim)


def begin(made: Bench, devices: int = 2, **more: Any) -> None:
    """A driver, registered, with its devices."""
    made.driver.start()
    made.until_registered()
    made.publish(devices, **more)


def run_and_delete(made: Bench, *pods: str) -> None:
    for pod in pods:
        made.until_phase(pod, "Running")
    for pod in pods:
        made.delete_pod(pod)
    for pod in pods:
        made.until_phase(pod, "gone")


def test_a_claim_from_a_template() -> None:
    with bench() as made:
        begin(made)
        made.add_pod("a-pod")
        made.until_phase("a-pod", "Running")
        [claim] = made.claims()
        pod = made.pod("a-pod")
        assert pod is not None
        [container] = pod["status"]["containerStatuses"]
        uid = claim["metadata"]["uid"]
        resource = {"resourceID": f"{NAME}/gpu={uid}", "health": "Unknown"}
        assert container["allocatedResourcesStatus"] == [{"name": "claim:gpu", "resources": [resource]}]
        assert f"/dev/dri/{uid}" in pod["metadata"]["annotations"][DEVICES_ANNOTATION]
        running = made.kubelet.containers("rec", "a-pod")
        assert running is not None
        assert running["c"].nodes == (f"/dev/dri/{uid}",)
        run_and_delete(made, "a-pod")
        eventually("released", lambda: not made.claims())
    assert told(made.driver) == recorded("a-claim-template-lifecycle")


def test_messages_are_byte_for_byte_the_recorded_ones() -> None:
    lines = [line for line in recording("a-claim-template-lifecycle.grpc.jsonl") if "requestHex" in line]
    there = {line["method"].rpartition("/")[2]: bytes.fromhex(line["requestHex"]) for line in lines}
    [asked] = next(line for line in lines if "DRAPlugin" in line["method"])["request"]["claims"]
    with bench() as made:
        begin(made)
        made.add_pod("a-pod")
        made.until_phase("a-pod", "Running")
        [claim] = made.claims()
        run_and_delete(made, "a-pod")
    for call in made.driver.calls:
        said = call.request.replace(claim["metadata"]["uid"].encode(), asked["uid"].encode())
        assert said.replace(claim["metadata"]["name"].encode(), asked["name"].encode()) == there[call.method]


def test_b_shared_claim() -> None:
    with bench() as made:
        begin(made)
        made.add_claim("shared")
        for name in ("b-1", "b-2"):
            made.add_pod(name, claim="shared")
            run_and_delete(made, name)
        for name in ("b-3", "b-4"):
            made.add_pod(name, claim="shared")
        run_and_delete(made, "b-3", "b-4")
    assert told(made.driver) == recorded("b-shared-claim")


def _once(*firsts: Answer) -> Answer:
    """These answers, each once, and then that of a driver to whom nothing happens."""
    left = list(firsts)

    def answer(method: str, claims: Mapping[str, str]) -> bytes:
        if left:
            return left.pop(0)(method, claims)
        ids: Mapping[str, tuple[str, ...]] = dict.fromkeys(claims, ())
        return prepared(ids) if method == "NodePrepareResources" else unprepared(tuple(claims))

    return answer


def _by_claim(answers: Mapping[str, Answer]) -> Answer:
    return lambda method, claims: answers.get(next(iter(claims.values())), _once())(method, claims)


def _fails(code: grpc.StatusCode, details: str) -> Answer:
    def answer(_method: str, _claims: Mapping[str, str]) -> bytes:
        raise Failure(code, details)

    return answer


def test_c_prepare_errors() -> None:
    late = threading.Event()

    def slow(_method: str, claims: Mapping[str, str]) -> bytes:
        late.wait(5)
        return prepared(dict.fromkeys(claims, ()))

    nobody = "00000000-0000-0000-0000-000000000000"
    converging = "device gpu-0 has not converged yet (VF creation in progress)"
    preparing = {
        "c-claim-error": _once(lambda _, claims: prepared({}, errors=dict.fromkeys(claims, converging))),
        "c-grpc-error": _once(_fails(grpc.StatusCode.UNAVAILABLE, "driver is starting")),
        "c-missing": _once(lambda _, claims: b""),
        "c-extra": _once(lambda _, claims: prepared({**dict.fromkeys(claims, ()), nobody: ()})),
        "c-slow": _once(slow),
    }
    unpreparing = {
        "c-claim-error": _once(
            lambda _, claims: unprepared(tuple(claims), errors=dict.fromkeys(claims, "device is busy"))
        ),
        "c-grpc-error": _once(_fails(grpc.StatusCode.INTERNAL, "cannot unprepare")),
    }
    names = (*preparing, "c-nodevices")
    with bench(timing=replace(FAST, call=45 * SCALE)) as made:
        made.driver.answers = {
            "NodePrepareResources": _by_claim(preparing),
            "NodeUnprepareResources": _by_claim(unpreparing),
        }
        begin(made, devices=6)
        for name in names:
            made.add_claim(name)
            made.add_pod(name, claim=name)
        run_and_delete(made, *names)
        late.set()
        said = set(made.events("FailedPrepareDynamicResources"))
    assert told(made.driver) == recorded("c-prepare-errors")
    assert said == {
        line["object"]["message"]
        for line in recording("c-prepare-errors.jsonl")
        if line.get("source") == "watch" and line["object"].get("reason") == "FailedPrepareDynamicResources"
    }


def test_d1_kubelet_restart() -> None:
    with bench() as made:
        begin(made)
        made.add_pod("d-pod")
        made.until_phase("d-pod", "Running")
        made.kubelet.stop()
        assert made.slices() == 1
        made.kubelet.start()
        made.until_registered(2)
        eventually("wiped", lambda: made.slices() == 0)
        made.publish()
        run_and_delete(made, "d-pod")
    assert told(made.driver) == recorded("d1-kubelet-restart")


def test_d2_driver_restart() -> None:
    with bench() as made:
        begin(made)
        made.add_pod("d-pod")
        made.until_phase("d-pod", "Running")
        made.driver.stop()
        made.driver.start()
        made.until_registered(2)
        made.driver.stop(leave_sockets=True)
        made.add_pod("d-pod2")
        eventually("failed", lambda: bool(made.events("FailedPrepareDynamicResources")))
        eventually("wiped", lambda: made.slices() == 0)
        made.driver.start()
        made.publish()
        made.until_phase("d-pod2", "Running")
        made.driver.stop()
        for name in ("d-pod", "d-pod2"):
            made.delete_pod(name)
        eventually("wiped", lambda: made.slices() == 0)
        assert (made.phase("d-pod"), made.phase("d-pod2")) == ("Running", "Running")
        made.driver.start()
        for name in ("d-pod", "d-pod2"):
            made.until_phase(name, "gone")
    assert told(made.driver) == recorded("d2-driver-restart")


def test_a_short_gap_of_the_driver_wipes_nothing() -> None:
    with bench(timing=replace(FAST, wipe_after_disconnect=60.0)) as made:
        begin(made)
        made.driver.stop()
        made.driver.start()
        made.until_registered(2)
        assert made.slices() == 1


def test_d3_sandbox_recreated() -> None:
    with bench() as made:
        begin(made)
        made.add_pod("d-pod")
        made.until_phase("d-pod", "Running")
        made.kubelet.restart_containers("rec", "d-pod")
        eventually("restarted", lambda: _restarts(made, "d-pod") == 1)
        made.driver.stop()
        made.kubelet.power_off()
        assert made.kubelet.containers("rec", "d-pod") is None
        assert not list(made.cdi.iterdir())
        made.kubelet.start()
        made.driver.start()
        made.until_told(2)
        eventually("started", lambda: made.kubelet.containers("rec", "d-pod") is not None)
        assert made.phase("d-pod") == "Running"
        run_and_delete(made, "d-pod")
    # The recording begins with the Unprepare of a pod of an earlier one.
    assert told(made.driver) == {claim: calls[1:] for claim, calls in recorded("d3-sandbox-recreated").items()}


def _restarts(made: Bench, name: str) -> int:
    pod = made.pod(name)
    assert pod is not None
    count: int = pod["status"]["containerStatuses"][0]["restartCount"]
    return count


def test_e_force_delete() -> None:
    with bench() as made:
        begin(made)
        made.add_pod("e-pod")
        made.until_phase("e-pod", "Running")
        pod = made.pod("e-pod")
        assert pod is not None
        made.delete_pod("e-pod", force=True)
        assert made.kubelet.containers("rec", pod["metadata"]["uid"]) is not None
        made.until_told(2)
        made.add_claim("e-claim")
        made.add_pod("e-pod2", claim="e-claim")
        made.until_phase("e-pod2", "Running")
        path = f"{RESOURCE}/namespaces/rec/resourceclaims/e-claim"
        made.cluster.delete(path)
        made.cluster.merge(path, {"metadata": {"finalizers": None}})
        made.add_claim("e-claim")
        made.add_pod("e-pod3", claim="e-claim")
        eventually("failed", lambda: bool(made.events("FailedPrepareDynamicResources")))
        [said] = made.events("FailedPrepareDynamicResources")
        assert "old ResourceClaim with same name e-claim and different UID" in said
        run_and_delete(made, "e-pod2")
        run_and_delete(made, "e-pod3")
    assert told(made.driver) == recorded("e-force-delete")


def test_l_completed_pod() -> None:
    with bench() as made:
        begin(made)
        made.add_pod("l-job", restartPolicy="Never")
        made.until_phase("l-job", "Running")
        made.kubelet.finish("rec", "l-job")
        made.until_phase("l-job", "Succeeded")
        assert len(made.driver.told()) == 2
        eventually("released", lambda: not made.claims())
        made.delete_pod("l-job")
        made.until_phase("l-job", "gone")
    assert told(made.driver) == recorded("l-completed-pod")


def test_a_kubelet_restarted_at_a_pods_end_does_not_start_it_again() -> None:
    with bench() as made:
        begin(made)
        made.driver.answers["NodeUnprepareResources"] = _fails(grpc.StatusCode.UNAVAILABLE, "not now")
        made.add_pod("job", restartPolicy="Never")
        made.until_phase("job", "Running")
        made.kubelet.finish("rec", "job", exit_code=3)
        made.until_told(2)
        assert made.phase("job") == "Running"
        made.kubelet.stop()
        del made.driver.answers["NodeUnprepareResources"]
        made.kubelet.start()
        made.until_phase("job", "Failed")
        assert [each.partition("[")[0] for each in made.driver.told()].count("NodePrepareResources") == 1


def test_whatever_happens_all_that_was_prepared_is_given_back() -> None:
    """Random errors of the driver, kubelet and driver restarted, the node switched off; then peace."""
    rng = random.Random(5)

    def grudging(method: str, claims: Mapping[str, str]) -> bytes:
        if rng.random() < 0.4:
            raise Failure(grpc.StatusCode.UNAVAILABLE, "try again")
        if method == "NodeUnprepareResources":
            return unprepared(tuple(claims))
        return prepared(dict.fromkeys(claims, ()))

    timing = replace(FAST, prepare_retry=0.05, prepare_retry_spread=0.05, unregistered_retry=0.05)
    with bench(timing=timing) as made:
        made.driver.answers = dict.fromkeys(CALLS, grudging)
        begin(made, devices=12)
        names = [f"p-{number}" for number in range(12)]
        for number, name in enumerate(names):
            made.add_pod(name)
            if number == 4:
                made.kubelet.restart()
            if number == 8:
                made.driver.stop()
                made.driver.start()
            if number == 10:
                made.kubelet.power_off()
                made.kubelet.start()
        for number, name in enumerate(names):
            eventually(f"{name} Running", lambda: _runs_while_published(made, name), made.events)  # noqa: B023
            made.delete_pod(name, force=number % 3 == 0)
        record = made.root / "dra_manager_state"
        eventually("given back", lambda: json.loads(record.read_text())["claims"] == [], record.read_text)
        eventually("released", lambda: not made.claims())
        for name in names:
            made.until_phase(name, "gone")
        calls = told(made.driver)
        assert len(calls) == len(names)
        assert all(
            each[0] == "NodePrepareResources" and each[-1] == "NodeUnprepareResources" for each in calls.values()
        )


def _runs_while_published(made: Bench, name: str) -> bool:
    """Publish again what a starting kubelet wiped, as a driver does."""
    if made.slices() == 0:
        made.publish(12)
    return made.phase(name) == "Running"


def test_m_two_claims_in_one_call() -> None:
    with bench() as made:
        begin(made, devices=5)
        made.add_claim("m-two")
        uses = [
            {"name": "a", "resourceClaimTemplateName": "one-gpu"},
            {"name": "b", "resourceClaimName": "m-two"},
        ]
        container = {"name": "c", "image": "x:1", "resources": {"claims": [{"name": "a"}]}}
        made.add_pod("m-pod", resourceClaims=uses, containers=[container])
        run_and_delete(made, "m-pod")
        assert [len(call.claims) for call in made.driver.calls if call.claims] == [2, 2]
    assert told(made.driver) == recorded("m-two-claims-subrequests")


def test_n_extended_resource() -> None:
    with bench() as made:
        made.cluster.merge(f"{RESOURCE}/deviceclasses/{NAME}", {"spec": {"extendedResourceName": f"{NAME}/gpu"}})
        begin(made)
        made.driver.answers["NodePrepareResources"] = lambda _, claims: prepared(
            {uid: (f"{NAME}/gpu={uid}",) for uid in claims}, request="container-0-request-0"
        )
        limits = {"limits": {f"{NAME}/gpu": "2"}}
        made.add_pod("n-pod", resourceClaims=[], containers=[{"name": "c", "image": "x:1", "resources": limits}])
        eventually(
            "unresolvable", lambda: any("unresolvable CDI devices" in each for each in made.events("Failed"))
        )
        [claim] = made.claims()
        made.driver.write_cdi(claim["metadata"]["uid"])
        run_and_delete(made, "n-pod")
    assert told(made.driver) == recorded("n-extended-resource")


def test_k_device_health() -> None:
    said: list[tuple[int, str]] = [(1, "")]
    with bench() as made:
        made.driver.say_health({"gpu-0": said[0]})
        begin(made)
        made.add_claim("k")
        made.add_pod("k-pod", claim="k")
        for state, message, shown in (
            (1, "", "Healthy"),
            (2, "engine reset failed", "Unhealthy"),
            (1, "", "Healthy"),
        ):
            made.driver.say_health({"gpu-0": (state, message)})
            expected = {"health": shown} | ({"message": message} if message else {})
            eventually(shown, lambda wanted=expected: _health(made, "k-pod") == wanted, made.events)  # type: ignore[misc]
        run_and_delete(made, "k-pod")
        made.driver.end_health()
    assert told(made.driver) == recorded("k-device-health")


def _health(made: Bench, name: str) -> Any:
    pod = made.pod(name)
    assert pod is not None
    for container in pod["status"].get("containerStatuses", ()):
        for claim in container.get("allocatedResourcesStatus", ()):
            return {key: value for key, value in claim["resources"][0].items() if key != "resourceID"}
    return None


SERVICE = "k8s.io.kubelet.pkg.apis.dra."


@pytest.mark.parametrize(
    ("versions", "service"),
    [
        (("v1.DRAPlugin", "v1beta1.DRAPlugin"), f"{SERVICE}v1.DRAPlugin"),
        (("v1beta1.DRAPlugin", "v1.DRAPlugin"), f"{SERVICE}v1beta1.DRAPlugin"),
        (("v1beta1.DRAPlugin",), f"{SERVICE}v1beta1.DRAPlugin"),
    ],
)
def test_j_the_first_version_listed_is_called(versions: tuple[str, ...], service: str) -> None:
    with bench() as made:
        made.driver.versions = versions
        begin(made)
        made.add_pod("j-pod")
        run_and_delete(made, "j-pod")
        assert {call.service for call in made.driver.calls if call.claims} == {service}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"versions": ("1.0.0",)}, '(["1.0.0"])'),
        ({"versions": ("v1alpha3.NodeService",)}, '(["v1alpha3.NodeService"])'),
        ({"versions": ()}, "empty list"),
        ({"type": "GPUPlugin"}, "plugin type: GPUPlugin"),
    ],
)
def test_j_refusals(changed: dict[str, Any], words: str) -> None:
    requests = [line.get("request") or {} for line in recording("j-registration.grpc.jsonl")]
    expected = next(each["error"] for each in requests if words in each.get("error", ""))
    with bench() as made:
        for key, value in changed.items():
            setattr(made.driver, key, value)
        made.driver.start()
        eventually("refused", lambda: len(made.driver.notices) >= 3, lambda: made.driver.notices)
        [said] = set(made.driver.notices)
    sockets = re.compile(r"(at (?:socket|endpoint) )[^: ]+")
    assert sockets.sub(r"\1?", said) == sockets.sub(r"\1?", expected)


def test_j_a_driver_that_answers_late_is_never_registered() -> None:
    with bench(timing=replace(FAST, information=0.05)) as made:
        made.driver.information_delay = 0.2
        made.driver.start()
        eventually("asked again", lambda: len(made.driver.calls) >= 2)
        assert made.driver.notices == []


def test_j_an_empty_endpoint_is_the_registration_socket() -> None:
    with bench() as made:
        made.driver.endpoint = ""
        begin(made)
        made.add_pod("j-pod")
        run_and_delete(made, "j-pod")
        assert len(made.driver.told()) == 2


def test_j_of_two_instances_the_later_is_called_while_it_is_there() -> None:
    with bench() as made:
        begin(made)
        second = Driver(root=made.root, cdi=made.cdi, suffix="-2")
        second.start()
        made.closing.callback(second.stop)
        made.until_registered(driver=second)
        made.add_pod("j-1")
        made.until_phase("j-1", "Running")
        assert (len(made.driver.told()), len(second.told())) == (0, 1)
        second.stop()
        made.add_pod("j-2")
        run_and_delete(made, "j-1", "j-2")
        assert (len(made.driver.told()), len(second.told())) == (3, 1)


def test_a_pod_gone_while_no_kubelet_ran_is_given_back() -> None:
    with bench() as made:
        begin(made)
        made.add_pod("p")
        made.until_phase("p", "Running")
        made.kubelet.stop()
        made.delete_pod("p", force=True)
        made.kubelet.start()
        assert made.until_told(2)[1].startswith("NodeUnprepareResources")


@pytest.mark.parametrize(
    ("release", "service"), [("1.33", f"{SERVICE}v1beta1.DRAPlugin"), ("1.32", "v1alpha3.Node")]
)
def test_older_kubelets_call_older_services(release: str, service: str) -> None:
    with bench(release=release) as made:
        if release == "1.32":
            made.driver.versions = ("v1alpha3.NodeService",)
        begin(made)
        made.add_pod("p")
        run_and_delete(made, "p")
        assert {call.service for call in made.driver.calls if call.claims} == {service}


def test_events_name_the_node() -> None:
    with bench() as made:
        made.add_claim("missing-driver")
        made.add_pod("p", claim="missing-driver")

        def failed() -> bool:
            if not made.slices():  # what is published before the kubelet starts is wiped
                made.publish()
            return bool(made.events("FailedPrepareDynamicResources"))

        eventually("failed", failed)
        [said] = made.events("FailedPrepareDynamicResources")[:1]
        assert said.endswith(f"DRA driver {NAME} is not registered")
        [event] = [
            each
            for each in made.cluster.get(f"{NAMESPACE}/events")["items"]
            if each["reason"] == "FailedPrepareDynamicResources"
        ][:1]
        assert event["source"] == {"component": "kubelet", "host": "node-b"}
