"""People: their pods and claims, and their wishes for nodes."""

from dataclasses import dataclass, field

from kubesim import Refusal
from kubesim.values import Object
from tests.model.judge import Part
from tests.whole import uses
from tests.whole.towns import CLAIMS, NAMES, PODS, Town


@dataclass
class People:
    """What they have asked for by now."""

    town: Town
    uses: dict[str, str] = field(default_factory=dict)
    """By pod, also of pods that are gone."""
    overrides: dict[str, dict[str, Object]] = field(default_factory=lambda: {name: {} for name in NAMES})
    manual: dict[str, str] = field(default_factory=dict)
    """By node, the device that somebody took by hand."""
    paused: set[str] = field(default_factory=set)
    policies: dict[str, Object] = field(default_factory=dict)

    def ask(self, use: str, *, shared: bool) -> None:
        """A pod; if it is ``shared``, two of them with one claim, made beforehand."""
        number = len(self.uses)
        if not shared:
            self._create(f"p{number}", use, uses.pod(f"p{number}", use=use))
            return
        self.town.cluster.create(CLAIMS, uses.claim(f"c{number}", use))
        for name in (f"p{number}", f"p{number + 1}"):
            self._create(name, use, uses.pod(name, claim=f"c{number}"))

    def ask_again(self, claim: str) -> None:
        """A pod for a claim that is there, whoever else has it or had it before."""
        made_for = claim.replace("c", "p", 1)
        if made_for in self.uses:
            name = f"p{len(self.uses)}"
            self._create(name, self.uses[made_for], uses.pod(name, claim=claim))

    def _create(self, name: str, use: str, pod: Object) -> None:
        self.town.cluster.create(PODS, pod)
        self.uses[name] = use

    def force_delete_claim(self, name: str) -> None:
        """Somebody takes away the finalizers of a claim, and it."""
        self.town.cluster.merge(f"{CLAIMS}/{name}", {"metadata": {"finalizers": None}})
        try:
            self.town.cluster.delete(f"{CLAIMS}/{name}")
        except Refusal as refusal:
            if refusal.code != 404:
                raise

    def override(self, node: str, device: str, wish: Object | None) -> None:
        if wish is None:
            self.overrides[node].pop(device, None)
        else:
            self.overrides[node][device] = wish
        self._write(node)

    def take_by_hand(self, node: str, device: str) -> None:
        """Take a device for something outside of Kubernetes; none to give it back."""
        self.manual[node] = device
        self._write(node)

    def pause(self, node: str, *, paused: bool) -> None:
        (self.paused.add if paused else self.paused.discard)(node)
        self._write(node)

    def decide(self, node: str, policy: Object) -> None:
        """A policy for what is offered; none leaves that to the agent's flags."""
        self.policies[node] = policy
        self._write(node)

    def lose_node_state(self, node: str) -> None:
        """Somebody deletes the GpuNodeState, and all wishes with it."""
        self.forget(node)
        self.town.lose_node_state(node)

    def forget(self, node: str) -> None:
        self.overrides[node] = {}
        self.manual.pop(node, None)
        self.policies.pop(node, None)
        self.paused.discard(node)

    def take_back_everything(self) -> None:
        for node in self.town.nodes:
            self.forget(node)
            self._write(node)

    def offers_everything(self, node: str) -> bool:
        """Whether what is free there can be had in any way."""
        return node not in self.paused and not self.policies.get(node)

    def wished(self, node: str) -> set[str]:
        """Addresses of GPUs that people have wishes about."""
        devices = [*self.overrides[node], *filter(None, [self.manual.get(node)])]
        return {Part.of(device).gpu for device in devices}

    def _write(self, node: str) -> None:
        overrides = [{"device": device, **wish} for device, wish in self.overrides[node].items()]
        manual = self.manual.get(node)
        allocations = [{"name": "by-hand", "devices": [{"device": manual}]}] if manual else []
        policy = dict.fromkeys(("layout", "profiles", "sharedMemory")) | self.policies.get(node, {})
        wanted = {"overrides": overrides, "manualAllocations": allocations, "policy": policy}
        self.town.edit(node, {**wanted, "paused": node in self.paused})
