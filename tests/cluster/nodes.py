"""What tests of a whole cluster work with: a node with a simulated machine, its agent, and claims for its GPUs.

The tests play scheduler and kubelet plugin themselves: they say which device a claim gets, and write marks.
"""

import json
import shlex
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubesim
from hack.lab.cluster import Lab, Result
from hack.lab.machines import SimulatedMachine
from hack.lab.processes import Daemon, eventually
from reconciler.runtime.files import write_atomic
from state.record_coding import encode_record
from state.records import Mark

CLAIMS = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims"
EVENTS = "/apis/events.k8s.io/v1/events"
DRIVER = "gpu.intel.com"
EDITOR = Path(__file__).with_name("editor.py")

FLEX, B60 = "0x56c0", "0xe211"

JsonObject = dict[str, Any]


def gpu_at(bus: str, pci_id: str = FLEX) -> str:
    """The name of the GPU on a PCI bus."""
    return f"0000-{bus}-00-0-{pci_id}"


def address_of(gpu: str) -> str:
    """The PCI address in a GPU's name."""
    domain, bus, slot, function, _ = gpu.split("-")
    return f"{domain}:{bus}:{slot}.{function}"


def machine_of(where: Path, gpus: Mapping[str, str], **more: str) -> str:
    """A file that describes a machine with these GPUs: model by PCI bus. ``more`` is true of all of them."""
    described = [{"model": model, "address": f"0000:{bus}:00.0", **more} for bus, model in gpus.items()]
    file = where / f"machine-{uuid.uuid4().hex[:8]}.json"
    file.write_text(json.dumps({"description": "A machine of a test", "gpus": described}))
    return str(file)


@dataclass(frozen=True, slots=True)
class Claim:
    """A ResourceClaim that was made; ``uid`` is what nodes know it by."""

    name: str
    uid: str

    @property
    def path(self) -> str:
        return f"{CLAIMS}/{self.name}"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the lab."""

    lab: Lab
    name: str
    machine: SimulatedMachine
    agent: Daemon

    # -- people --------------------------------------------------------------------------------------------

    def patch(self, spec: JsonObject) -> Result:
        """What ``kubectl patch`` says."""
        return self.lab.kubectl("patch", "gns", self.name, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def edit(self, spec: JsonObject) -> Result:
        """What ``kubectl edit`` says when a person makes these changes to the spec."""
        words = shlex.join(("env", f"SPEC={json.dumps(spec)}", sys.executable, str(EDITOR)))
        return self.lab.kubectl("edit", "gns", self.name, editor=words)

    def wish(self, **spec: object) -> None:
        """Change these fields of the spec; the others of people are as they are without any wish."""
        nothing = dict.fromkeys(("paused", "policy", "overrides", "manualAllocations", "releases"))
        done = self.patch({**nothing, **spec})
        assert done.code == 0, done.err

    # -- scheduler -----------------------------------------------------------------------------------------

    def claim(self, device: str, **more: object) -> Claim:
        """A claim that was allocated a device here; ``more`` is for its allocation result."""
        return self.claim_of({"device": device, **more})

    def claim_of(self, *results: JsonObject, name: str = "", **spec: Any) -> Claim:
        """A claim that was allocated several devices here; ``spec`` is its own, if that matters."""
        claim = make_claim(self.lab.cluster, name or f"claim-{uuid.uuid4().hex[:8]}", len(results), **spec)
        allocate(self.lab.cluster, claim, self.name, *results)
        return claim

    def give_back(self, claim: Claim) -> None:
        """Delete a claim."""
        self.lab.cluster.delete(claim.path)

    def nobody_uses_anything(self) -> None:
        """All claims are deleted, all marks are gone. Nothing waits for what follows from that."""
        for claim in self.lab.cluster.get(CLAIMS)["items"]:
            self.lab.cluster.delete(f"{CLAIMS}/{claim['metadata']['name']}")
        for mark in (self.machine.where / "run/marks").glob("*.json"):
            mark.unlink()

    # -- plugin --------------------------------------------------------------------------------------------

    def prepare(self, claim: Claim) -> str:
        """Mark a claim as in use, and wait until the agent knows of it. Returns the nonce."""
        nonce = self.mark(claim)
        eventually("confirmed", lambda: self.nonces().get(claim.uid) == nonce or None, self.why)
        return nonce

    def mark(self, claim: Claim) -> str:
        """Mark a claim as in use, without waiting."""
        nonce = uuid.uuid4().hex
        boot_id = (self.machine.where / "proc/sys/kernel/random/boot_id").read_text().strip()
        mark = Mark(uid=claim.uid, nonce=nonce, boot_id=boot_id, grpc_version="v1")
        write_atomic(self._mark(claim), encode_record(mark), durable=False)
        return nonce

    def unprepare(self, claim: Claim) -> None:
        """The claim's user has ended."""
        self._mark(claim).unlink()

    def _mark(self, claim: Claim) -> Path:
        return self.machine.where / "run/marks" / f"{claim.uid}.json"

    # -- kernel --------------------------------------------------------------------------------------------

    def happen(self, command: str) -> None:
        """Something happens to the machine, and the agent hears that it should look."""
        self.machine.do(command)
        self.agent.process.send_signal(signal.SIGHUP)

    # -- what there is -------------------------------------------------------------------------------------

    def status_file(self) -> JsonObject:
        """The agent's status file."""
        found: JsonObject = json.loads((self.machine.where / "run/status/status.json").read_text())
        return found

    def nonces(self) -> Mapping[str, str]:
        """Nonces that the agent has confirmed, by claim UID."""
        nonces: Mapping[str, str] = self.status_file().get("nonces", {})
        return nonces

    @property
    def spec(self) -> JsonObject:
        """The spec as the API server has it."""
        spec: JsonObject = (self.lab.node_state(self.name) or {}).get("spec", {})
        return spec

    @property
    def status(self) -> JsonObject:
        """The status as the API server has it."""
        status: JsonObject = (self.lab.node_state(self.name) or {}).get("status", {})
        return status

    def allocation(self, name: str) -> JsonObject:
        """The status of one allocation, by claim UID or name; empty if there is none."""
        return next((one for one in self.status.get("allocations", ()) if one["name"] == name), {})

    def entry(self, claim: Claim) -> JsonObject:
        """What the controller wrote for a claim; empty if nothing."""
        return next((one for one in self.spec.get("allocations", ()) if one["name"] == claim.uid), {})

    def phase(self, name: str) -> str:
        return str(self.allocation(name).get("phase", ""))

    def condition(self, kind: str) -> JsonObject:
        return next((one for one in self.status.get("conditions", ()) if one["type"] == kind), {})

    def blocked(self) -> str:
        """All that the plan can't do, in one text."""
        return "; ".join(f"{one['what']}: {one['why']}" for one in self.status.get("plan", {}).get("blocked", ()))

    def device(self, gpu: str) -> JsonObject:
        return next(one for one in self.status["devices"] if one["name"] == gpu)

    def num_vfs(self, gpu: str) -> int:
        """As the kernel says."""
        return self.machine.num_vfs(address_of(gpu))

    def driver(self, gpu: str) -> str | None:
        """As the kernel says."""
        return self.machine.driver(address_of(gpu))

    def cdi(self, name: str) -> JsonObject | None:
        """The CDI spec of an allocation, None if there is none. ``name`` is claim-UID or alloc-NAME."""
        try:
            spec: JsonObject = json.loads((self.machine.where / f"cdi/intel.com-gpu_{name}.json").read_text())
        except FileNotFoundError:
            return None
        return spec

    def events(self, reason: str) -> list[str]:
        """The notes of Events about this node's object or about claims."""
        return [one.get("note", "") for one in self.lab.cluster.get(EVENTS)["items"] if one["reason"] == reason]

    def columns(self) -> dict[str, str]:
        """What ``kubectl get gns`` shows of this node, by column."""
        heads, row = self.lab.kubectl("get", "gns", self.name, "-o", "wide").out.splitlines()
        starts = [heads.index(head) for head in heads.split()]
        ends = [*starts[1:], None]
        return {heads[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)}

    # -- waiting -------------------------------------------------------------------------------------------

    def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait until something is so."""
        eventually(what, lambda: look() or None, self.why)

    def until_phase(self, phase: str, *whose: Claim | str) -> None:
        """Wait until these allocations have come to a phase."""
        names = [one if isinstance(one, str) else one.uid for one in whose]
        self.until(f"{phase}: {names}", lambda: all(self.phase(name) == phase for name in names))

    def until_withdrawn(self, *gpus: str) -> None:
        """Wait until the controller has confirmed that no claim gets these GPUs any more."""

        def confirmed() -> bool:
            tokens, answers = self.status.get("withdrawn", {}), self.spec.get("withdrawalsConfirmed", {})
            return all(gpu in tokens and answers.get(gpu) == tokens[gpu] for gpu in gpus)

        self.until(f"withdrawn: {gpus}", confirmed)

    def until_entered(self, claim: Claim) -> None:
        """Wait until the controller has written an entry for a claim."""
        self.until(f"entered: {claim}", lambda: self.entry(claim))

    def until_there(self) -> None:
        """Wait until the node has reported its GPUs."""
        self.until("there", lambda: self.status.get("devices"))

    def until_empty(self, *gpus: str) -> None:
        """Wait until nobody has anything here, and these GPUs have no VFs."""
        self.until("empty", lambda: not self.spec.get("allocations") and not self.status.get("allocations"))
        self.until("turned off", lambda: not any(map(self.num_vfs, gpus)))

    def until_gone(self, *claims: Claim) -> None:
        """Wait until the node knows nothing of these claims any more."""
        self.until("gone", lambda: not any(self.allocation(claim.uid) or self.entry(claim) for claim in claims))

    def why(self) -> str:
        """For whoever finds that something never happened."""
        logs = [f"-- {log.name}\n{log.read_text()[-3000:]}" for log in sorted((self.lab.where / "logs").iterdir())]
        status = {name: value for name, value in self.status.items() if name != "devices"}
        return "\n".join((json.dumps({"spec": self.spec, "status": status}, indent=1), *logs))


def make_claim(cluster: kubesim.Cluster, name: str, count: int = 1, **spec: Any) -> Claim:
    """A claim that nothing was allocated to yet, with requests r0, r1, ... unless ``spec`` has its own."""
    asked = [{"name": f"r{number}", "exactly": {"deviceClassName": DRIVER}} for number in range(count)]
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": asked, **spec}},
    }
    made = cluster.create(CLAIMS, claim)
    return Claim(name, made["metadata"]["uid"])


def allocate(cluster: kubesim.Cluster, claim: Claim, node: str, *results: JsonObject) -> None:
    """Give devices of a node to a claim, as a scheduler does. Raises kubesim.Refusal."""
    filled = [
        {"request": f"r{number}", "driver": DRIVER, "pool": node, **_sharing(result), **result}
        for number, result in enumerate(results)
    ]
    asked = cluster.get(claim.path)["spec"]["devices"].get("config", [])
    selected = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    allocation = {
        "devices": {"results": filled, "config": [{"source": "FromClaim", **one} for one in asked]},
        "nodeSelector": {"nodeSelectorTerms": [selected]},
    }
    patch = {"metadata": {"uid": claim.uid}, "status": {"allocation": allocation}}
    cluster.merge(f"{claim.path}/status", patch)


def _sharing(result: JsonObject) -> JsonObject:
    """Devices that several claims may have, by their names: each share has an id."""
    if result.get("driver", DRIVER) != DRIVER:
        return {}
    suffix = str(result["device"]).split("-")[5:]
    if not suffix or suffix == ["monitor"]:
        return {}
    return {"shareID": str(uuid.uuid4()), "consumedCapacity": {"millicores": "1"}}
