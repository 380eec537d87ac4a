"""Judges each write of the controller to claims, ledgers and pods' scheduling, by how things really are."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from state.classic.handles import results_of
from tests.model.controller.classic_paper import (
    OURS,
    ClassicPaper,
    NodeOnPaper,
    Raw,
    entries_of,
    is_releasing,
    node_of,
)

GPU_BYTES = 16 * 2**30


def devices_of(entry: Raw) -> list[str]:
    return [device["device"] for device in entry.get("devices", ())]


def handed(claim: Raw) -> list[str]:
    """The devices a claim was told of."""
    return [result.device for result in results_of(claim["status"]["allocation"]["resourceHandle"])]


@dataclass
class Judge:
    """``lost`` are claims by node whose entry vanished with a deleted object before the node had read it: what is
    decided then may contradict them. ``decided`` is the first decision about each claim that was told.
    """

    server: ClassicPaper
    agents: dict[str, NodeOnPaper]
    lost: set[tuple[str, str]] = field(default_factory=set)
    fenced: set[str] = field(default_factory=set)

    def lose(self, node: str) -> None:
        """The object is about to be deleted."""
        living = self.living(node)
        uids = living.keys() | entries_of(self.server.nodes[node]).keys()
        self.lost |= {(uid, node) for uid in uids if uid not in living or uid not in self.agents[node].file}

    def living(self, node: str) -> dict[str, Raw]:
        """Claims that are allocated there, and not to be deallocated."""
        return {
            claim["metadata"]["uid"]: claim
            for claim in self.server.claims.values()
            if node_of(claim) == node and not is_releasing(claim)
        }

    def on_claim(self, before: Raw, after: Raw) -> None:
        uid = after["metadata"]["uid"]
        if any(f"{driver}/deletion-protection" in after["metadata"].get("finalizers", ()) for driver in OURS):
            self.fenced.add(uid)
        elif before["metadata"].get("finalizers"):
            assert not node_of(after), f"{uid} is allocated, and bare"
        if node_of(after) and not node_of(before):
            self._allocated(uid, after)
        if node_of(before) and not node_of(after):
            self._deallocated(uid, before)

    def _allocated(self, uid: str, claim: Raw) -> None:
        node = node_of(claim)
        assert claim["metadata"].get("finalizers"), f"{uid} is allocated without a fence"
        assert "deletionTimestamp" not in claim["metadata"]
        if (uid, node) in self.lost:
            return
        entry = entries_of(self.server.nodes[node]).get(uid)
        assert entry is not None, f"{uid} is allocated without an entry"
        assert devices_of(entry) == handed(claim) != []

    def _deallocated(self, uid: str, claim: Raw) -> None:
        assert is_releasing(claim)
        node = node_of(claim)
        raw = self.server.nodes.get(node)
        if raw is None:
            assert node not in self.server.machines, f"{uid} is deallocated while nothing is known of {node}"
            return
        assert uid not in entries_of(raw), f"{uid} is deallocated while it has an entry"
        assert uid in raw["spec"].get("releases", ()) or not self.agents[node].has(uid), f"{node} has {uid} still"

    def on_answer(self, before: Raw, after: Raw) -> None:
        assert before["spec"] == after["spec"]
        others = [one for one in before.get("status", {}).get("resourceClaims", ()) if one["name"] == "fpga"]
        assert [one for one in after["status"]["resourceClaims"] if one["name"] == "fpga"] == others

    def on_spec(self, name: str, before: Raw, spec: Raw) -> None:
        assert before["status"].get("observedGeneration") is not None
        assert spec["adoptedUID"] == before["metadata"]["uid"]
        old, new = entries_of(before), entries_of({"spec": spec})
        assert len(new) == len(spec["allocations"])
        assert new.keys() - old.keys() <= self.fenced, "an entry of a claim that was never ours"
        living = self.living(name)
        for uid, claim in living.items():
            if uid in old and devices_of(old[uid]) == handed(claim):
                assert uid in new, f"{uid} lost its entry"
                assert new[uid] == old[uid], f"{uid} has moved"
        certain = [new[uid] for uid in new if uid in living and (uid, name) not in self.lost]
        assert not (clash := clashes(certain)), clash
        for uid in old.keys() & new.keys():
            moved = devices_of(old[uid]) != devices_of(new[uid])
            assert not moved or devices_of(new[uid]) == handed(living[uid]), f"{uid} was decided anew"


def clashes(entries: Iterable[Raw]) -> list[str]:
    """Where entries claim more of a GPU than there is."""
    users: defaultdict[str, list[Raw]] = defaultdict(list)
    for entry in entries:
        for device in entry.get("devices", ()):
            users[device["physicalFunction"]].append(device)
    return [gpu for gpu, devices in users.items() if not _go_together(devices)]


def _go_together(devices: list[Raw]) -> bool:
    profiles = {device.get("virtualFunction", {}).get("profile", "") for device in devices}
    names = [device["device"] for device in devices]
    if profiles != {""}:
        return len(profiles) == 1 and len(set(names)) == len(names)
    shared = {name.endswith("-shared") for name in names}
    if shared == {True}:
        return bool(sum(device.get("memory", 0) for device in devices) <= GPU_BYTES)
    return len(names) == 1
