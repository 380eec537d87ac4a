"""A guided tour: two nodes with simulated GPUs in a simulated cluster, and the real kubectl.

Controller and node agents are the unmodified product. The API server, and the scheduler that gives claims their
devices, are simulated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hack.lab.cluster import JsonObject, Lab, Result, opened
from hack.lab.processes import Daemon, GaveUp, eventually
from kubesim.stand_in import StandIn

FLEX, MIXED = "node-a", "node-b"
GPU = "0000-03-00-0-0x56c0"
B580 = "0000-c7-00-0-0xe20b"

VF_CLAIM = """\
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: transcode}
spec:
  devices:
    requests:
    - name: vf
      exactly:
        deviceClassName: vf.gpu.intel.com
        selectors:
        - cel: {expression: 'device.attributes["gpu.intel.com"].mode == "m4"'}
"""
WHOLE_CLAIM = """\
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: training}
spec:
  devices:
    requests:
    - {name: gpu, exactly: {deviceClassName: gpu.intel.com}}
"""
MANUAL = {"spec": {"manualAllocations": [{"name": "jupyter", "devices": [{"device": B580}]}]}}
SPLIT = {
    "spec": {
        "overrides": [{"device": GPU, "mode": "Fixed", "virtualFunctions": {"profile": "m8"}, "reason": "test"}]
    }
}
MISTAKE = {"spec": {"overrides": [{"device": GPU, "mode": "Drained"}]}}


class Tour:
    """The stops, in order. Raises GaveUp when the cluster doesn't come to where it should."""

    def __init__(self, lab: Lab, *, quick: bool) -> None:
        self._lab = lab
        self._quick = quick
        self._controllers: list[Daemon] = []

    def run(self) -> None:
        self._start()
        self._claims()
        self._people()
        self._outage()
        self._end()

    # -- stops ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._say("A cluster with two nodes: one with a Flex 170, one with eight Intel GPUs of many kinds.")
        lab = self._lab
        lab.add_node(FLEX, "flex170")
        lab.add_node(MIXED, "mixed")
        for node in (FLEX, MIXED):
            lab.start_agent(node, "--linger-seconds", "2", "--resync-seconds", "5")
        self._controllers = [lab.start_controller(f"controller-{number}") for number in (1, 2)]
        eventually("published by both nodes", lambda: all(map(self._is_ready, (FLEX, MIXED))) or None)
        self._show("get", "gpunodestates")

    def _claims(self) -> None:
        self._say("Somebody asks for a virtual function of a GPU. None exists yet.")
        self._apply(VF_CLAIM)
        self._until_claim_ready("transcode")
        self._show("get", "gns")
        self._show("describe", "resourceclaim", "transcode", after="Events:")
        self._say("Somebody else asks for a whole GPU.")
        self._apply(WHOLE_CLAIM)
        self._until_claim_ready("training")
        self._show("get", "gns", "-o", "wide")

    def _people(self) -> None:
        self._say(
            "An operator takes an Arc B580 for himself. It is withdrawn first: no claim may get it meanwhile."
        )
        self._patch(MIXED, MANUAL)
        self._until_ready(MIXED, "jupyter")
        self._show("get", "gns", MIXED, "-o", 'jsonpath={.status.allocations[?(@.name=="jupyter")]}')
        self._say("A mistake is refused at once, with what is allowed:")
        self._patch(FLEX, MISTAKE)
        self._say("The Flex 170 is to be split into eight, but a claim has a quarter of it: that comes first.")
        self._patch(FLEX, SPLIT)
        eventually("blocked", lambda: self._plan(FLEX).get("blocked") or None)
        self._show("get", "gns", FLEX, "-o", "jsonpath={.status.plan.blocked}")
        self._say("The claim is given back, and the override has its way:")
        self._run("delete", "resourceclaim", "transcode")
        eventually("split into eight", lambda: self._vfs(FLEX) == 8 or None, self._why(FLEX))
        self._show("get", "gns")

    def _outage(self) -> None:
        self._say("The API server goes away, the leading controller is killed, and all CDI specs are deleted.")
        self._lab.server.pause()
        self._controllers[0].process.kill()
        cdi = self._lab.where / MIXED / "cdi"
        specs = sorted(cdi.glob("*.json"))
        for spec in specs:
            spec.unlink()
        eventually("repaired", lambda: sorted(cdi.glob("*.json")) == specs or None)
        print("  ... the node has written the specs again by itself", flush=True)
        self._say("It is back; one replica of the controller is left. A new claim:")
        self._lab.server.resume()
        self._apply(WHOLE_CLAIM.replace("training", "render"))
        self._until_claim_ready("render")
        self._show("get", "resourceclaims")

    def _end(self) -> None:
        self._say("Everything is given back:")
        self._run("delete", "resourceclaims", "--all")
        for node in (FLEX, MIXED):
            self._patch(node, {"spec": {"overrides": None, "manualAllocations": None}})
        eventually(
            "nothing left",
            lambda: (
                all(not self._lab.allocations(node) and self._is_ready(node) for node in (FLEX, MIXED)) or None
            ),
        )
        eventually("no VFs", lambda: self._vfs(FLEX) + self._vfs(MIXED) == 0 or None, self._why(FLEX))
        self._show("get", "gns")
        self._show("get", "events", "--sort-by=.metadata.creationTimestamp")

    # -- what a person would do ----------------------------------------------------------------------------

    def _apply(self, manifest: str) -> None:
        print(f"\n$ kubectl apply -f - <<EOF\n{manifest}EOF", flush=True)
        self._print(self._lab.kubectl("apply", "-f", "-", given=manifest))

    def _patch(self, node: str, patch: JsonObject) -> None:
        self._run("patch", "gns", node, "--type=merge", "--patch", json.dumps(patch))

    def _run(self, *words: str) -> None:
        print(f"\n$ kubectl {shlex.join(words)}", flush=True)
        self._print(self._lab.kubectl(*words))

    def _show(self, *words: str, after: str = "") -> None:
        print(f"\n$ kubectl {shlex.join(words)}", flush=True)
        done = self._lab.kubectl(*words)
        if done.code:
            raise GaveUp(done.err)
        print(textwrap.indent(done.out[max(0, done.out.find(after)) :].rstrip(), "  "), flush=True)
        self._pause(2.0)

    def _print(self, done: Result) -> None:
        print(textwrap.indent((done.out + done.err).rstrip(), "  "), flush=True)

    def _say(self, text: str) -> None:
        print(f"\n\n## {text}", flush=True)
        self._pause(1.0)

    def _pause(self, seconds: float) -> None:
        if not self._quick:
            time.sleep(seconds)

    # -- what the cluster says -----------------------------------------------------------------------------

    def _status(self, node: str) -> JsonObject:
        status: JsonObject = (self._lab.node_state(node) or {}).get("status", {})
        return status

    def _plan(self, node: str) -> JsonObject:
        plan: JsonObject = self._status(node).get("plan", {})
        return plan

    def _is_ready(self, node: str) -> bool:
        conditions: list[JsonObject] = self._status(node).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _vfs(self, node: str) -> int:
        return int(self._status(node).get("summary", {}).get("virtualFunctions", 0))

    def _until_claim_ready(self, name: str) -> None:
        began = time.monotonic()
        claim = self._lab.cluster.get(f"/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{name}")
        uid = str(claim["metadata"]["uid"])
        eventually(
            f"Ready: claim {name}",
            lambda: any(self._lab.allocations(node).get(uid) == "Ready" for node in (FLEX, MIXED)) or None,
            self._why(FLEX),
        )
        print(f"\n  ... the claim is Ready after {time.monotonic() - began:.1f} s", flush=True)

    def _until_ready(self, node: str, name: str) -> None:
        began = time.monotonic()
        self._lab.until_ready(node, name)
        print(f"\n  ... Ready after {time.monotonic() - began:.1f} s", flush=True)

    def _why(self, node: str) -> Callable[[], str]:
        return lambda: json.dumps(self._plan(node), indent=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The tour, in a directory of its own."""
    parser = argparse.ArgumentParser(prog="hack/demo --cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no pauses for reading")
    options = parser.parse_args(arguments)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with (
        tempfile.TemporaryDirectory(prefix="gpu-demo-") as where,
        contextlib.suppress(KeyboardInterrupt),
        opened(Path(where)) as lab,
        StandIn(lab.cluster),
    ):
        try:
            Tour(lab, quick=options.quick or not interactive).run()
        except GaveUp as error:
            logs = sorted((lab.where / "logs").iterdir())
            print(error, *(f"\n-- {log.name}\n{log.read_text()}" for log in logs), sep="\n", file=sys.stderr)
            return 1
        if interactive:
            print(f"\n\n## Now you: export KUBECONFIG={lab.kubeconfig} in another terminal. Ctrl-C ends.\n")
            while True:
                time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
