"""A guided tour: two nodes with simulated GPUs in a simulated cluster, and the real kubectl.

Controller, node agents and kubelet plugins are the unmodified product. The API server, the scheduler and the
kubelets are simulated.
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
from collections.abc import Sequence
from pathlib import Path

from hack.lab.cluster import JsonObject, Lab, Result
from hack.lab.pods import Town, running_town
from hack.lab.processes import GaveUp, eventually

FLEX, MIXED = "node-a", "node-b"
GPU = "0000-03-00-0-0x56c0"
B580 = "0000-c7-00-0-0xe20b"

TRANSCODE = """\
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: quarter-of-a-gpu}
spec:
  spec:
    devices:
      requests:
      - name: vf
        exactly:
          deviceClassName: vf.gpu.intel.com
          selectors: [{cel: {expression: 'device.attributes["gpu.intel.com"].profile == "m4"'}}]
---
apiVersion: v1
kind: Pod
metadata: {name: transcode}
spec:
  resourceClaims: [{name: vf, resourceClaimTemplateName: quarter-of-a-gpu}]
  containers:
  - {name: ffmpeg, image: busybox, resources: {claims: [{name: vf}]}}
"""
TRAINING = """\
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: training}
spec:
  devices:
    requests:
    - name: gpu
      exactly:
        deviceClassName: gpu.intel.com
        selectors: [{cel: {expression: 'device.attributes["gpu.intel.com"].family == "Data Center Max"'}}]
---
apiVersion: v1
kind: Pod
metadata: {name: training}
spec:
  resourceClaims: [{name: gpu, resourceClaimName: training}]
  containers:
  - {name: train, image: busybox, resources: {claims: [{name: gpu}]}}
"""
MANUAL = {"spec": {"manualAllocations": [{"name": "jupyter", "devices": [{"device": B580}]}]}}
EIGHT = {"mode": "Fixed", "virtualFunctions": {"profile": "m8"}, "reason": "transcoding only"}
MISTAKE = {"spec": {"overrides": [{"device": GPU, "mode": "Drained"}]}}


class Tour:
    """The stops, in order. Raises GaveUp when the cluster doesn't come to where it should."""

    def __init__(self, town: Town, *, quick: bool) -> None:
        self._town = town
        self._lab: Lab = town.lab
        self._quick = quick

    def run(self) -> None:
        self._start()
        self._pods()
        self._people()
        self._outage()
        self._end()

    # -- stops ---------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._say("A cluster with two nodes: one with a Flex 170, one with eight Intel GPUs of many kinds.")
        eventually("ready", lambda: all(map(self._is_ready, (FLEX, MIXED))) or None, self._town.explain)
        self._show("get", "gpunodestates")
        self._show("get", "resourceslices")

    def _pods(self) -> None:
        self._say("Somebody runs a pod that needs a quarter of a Flex 170: a virtual function. None exists yet.")
        self._apply(TRANSCODE)
        self._until_running("transcode", "ffmpeg")
        self._show("get", "pods,resourceclaims,gns")
        self._say("Somebody else asks for a whole Max GPU.")
        self._apply(TRAINING)
        self._until_running("training", "train")
        self._show("describe", "resourceclaim", "training", after="Status:")

    def _people(self) -> None:
        self._say("An operator takes an Arc B580. It is withdrawn first, so that no claim gets it meanwhile.")
        self._patch(MIXED, MANUAL)
        self._until_ready(MIXED, "jupyter")
        self._show("get", "gns", MIXED, "-o", 'jsonpath={.status.allocations[?(@.name=="jupyter")]}')
        self._say("A mistake is refused at once, with what is allowed:")
        self._patch(FLEX, MISTAKE)
        where = FLEX if self._vfs(FLEX) else MIXED
        gpu = next(device for device in self._status(where)["devices"] if device.get("sriov", {}).get("enabled"))
        self._say("The GPU whose quarter the pod has is to be split into eight. The pod comes first:")
        self._patch(where, {"spec": {"overrides": [{"device": gpu["name"], **EIGHT}]}})
        eventually("blocked", lambda: self._plan(where).get("blocked") or None)
        self._show("get", "gns", where, "-o", "jsonpath={.status.plan.blocked}")
        self._say("The pod ends, and the override has its way:")
        self._run("delete", "pod", "transcode")
        eventually("split into eight", lambda: self._vfs(where) == 8 or None, self._town.explain)
        self._show("get", "gns")

    def _outage(self) -> None:
        self._say("The API server goes away, the controller is killed, and all CDI specs are deleted.")
        self._lab.server.pause()
        self._town.controller.process.kill()
        cdi = self._lab.where / MIXED / "cdi"
        specs = sorted(cdi.glob("*.json"))
        for spec in specs:
            spec.unlink()
        eventually("repaired", lambda: sorted(cdi.glob("*.json")) == specs or None)
        print("  ... the node has written the specs again by itself", flush=True)
        self._say("The API server is back, and a new controller starts. A new pod:")
        self._lab.server.resume()
        self._lab.start_controller("controller-2")
        self._apply(
            TRANSCODE.replace("transcode", "encode").replace("quarter", "eighth").replace('"m4"', '"m8"'),
        )
        self._until_running("encode", "ffmpeg")
        self._show("get", "pods,resourceclaims")

    def _end(self) -> None:
        self._say("Everything is given back:")
        self._run("delete", "pods", "--all")
        for node in (FLEX, MIXED):
            self._patch(node, {"spec": {"overrides": None, "manualAllocations": None}})
        self._town.until_nothing_left()
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

    def _until_running(self, pod: str, container: str) -> None:
        began = time.monotonic()
        self._town.until_phase("Running", pod)
        print(f"\n  ... the pod runs after {time.monotonic() - began:.1f} s, and has:", flush=True)
        print(textwrap.indent("\n".join(self._town.devices(pod, container)), "      "), flush=True)

    def _until_ready(self, node: str, name: str) -> None:
        began = time.monotonic()
        self._lab.until_ready(node, name)
        print(f"\n  ... Ready after {time.monotonic() - began:.1f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The tour, in a directory of its own."""
    parser = argparse.ArgumentParser(prog="hack/demo --cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no pauses for reading")
    options = parser.parse_args(arguments)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with (
        tempfile.TemporaryDirectory(prefix="gpu-demo-") as where,
        contextlib.suppress(KeyboardInterrupt),
        running_town(Path(where), {FLEX: "flex170", MIXED: "mixed"}) as town,
    ):
        try:
            Tour(town, quick=options.quick or not interactive).run()
        except GaveUp as error:
            print(error, town.explain(), sep="\n", file=sys.stderr)
            return 1
        if interactive:
            print(f"\n\n## Now you: export KUBECONFIG={town.lab.kubeconfig} in another terminal. Ctrl-C ends.\n")
            while True:
                time.sleep(3600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
