"""What must be true of a cluster at any time, of one that has come to rest, and after everybody has left."""

import json
from collections.abc import Callable
from pathlib import Path

from kubesim.actors.api import deleting
from kubesim.actors.reservations import claim_names
from kubesim.values import Object, at
from tests.engine.hardware import assert_pristine
from tests.model.judge import Wrong
from tests.model.world import SPEC
from tests.whole import oracle
from tests.whole.people import People
from tests.whole.towns import CLAIMS, Town

GPUS = oracle.hardware()
WAITS = (1.1, 1.1, 1.1, 2.0, 5.0, 5.0, 20.0, 35.0, 70.0, 70.0, 130.0, 130.0, 310.0, 310.0, 35.0, 5.0, 1.1, 1.1)
"""Seconds between looks: two quiet ones are enough. All back-offs (60 s) and taints after failures (600 s) end."""


def check(town: Town) -> None:
    """Holds at any time. Raises Wrong."""
    claims = town.cluster.get(CLAIMS)["items"]
    for name, node in town.nodes.items():
        node.check_containers()
        clashes = oracle.clashes_on(name, claims, GPUS)
        if clashes:
            raise Wrong(f"{name}: {clashes}")


def settle(town: Town, people: People) -> None:
    """Nothing goes wrong any more: within bounded steps everybody has what he can have. Raises Wrong."""
    why = _rest(town, lambda: _why_not_settled(town, people))
    if why:
        raise Wrong(f"never settled: {why}")


def everybody_leaves(town: Town, people: People) -> None:
    """Nobody wants anything any more: nothing may be left. Raises Wrong."""
    people.take_back_everything()
    for name, pod in town.pods().items():
        if not deleting(pod):
            town.delete_pod(name)
    for claim in town.cluster.get(CLAIMS)["items"]:
        if not deleting(claim):
            town.cluster.delete(f"{CLAIMS}/{claim['metadata']['name']}")
    why = _rest(town, lambda: _left(town))
    if why:
        raise Wrong(f"everybody has left, but: {why}")
    for node in town.nodes.values():
        assert_pristine(node.bench)


def _rest(town: Town, why_not: Callable[[], list[str]]) -> list[str]:
    """Why there is no rest; empty if there is. Nothing goes wrong any more."""
    town.stop_faults()
    quiet = 0
    for seconds in WAITS:
        for _ in range(3):
            town.round()
            check(town)
        quiet = 0 if why_not() else quiet + 1
        if quiet == 2:
            return []
        town.pass_time(seconds)
        check(town)
    return why_not()


def _why_not_settled(town: Town, people: People) -> list[str]:
    why = []
    pods = town.pods()
    claims = town.cluster.get(CLAIMS)["items"]
    for name, pod in pods.items():
        node = pod["spec"].get("nodeName")
        if deleting(pod):
            why.append(f"{name} is not gone yet")
        elif node and at(pod, "status", "phase") != "Running" and not _excused(name, node, pods, town, people):
            why.append(f"{name} does not run on {node}: {town.nodes[node].kubelet.complaints}")
        elif not node and oracle.fits(people.uses[name], _free(town, claims, people)) and _has_claims(pod, claims):
            said = [each.get("message") for each in at(pod, "status", "conditions") or ()]
            why.append(f"{name} ({people.uses[name]}) is not scheduled: {said}")
    why += [f"the agent of {name} does not rest" for name, node in town.nodes.items() if not node.agent.is_quiet]
    return why


def _free(town: Town, claims: list[Object], people: People) -> set[str]:
    """GPUs of any node that nobody has, or had and may not have given back yet, and nobody has wishes about."""
    free: set[str] = set()
    for name, node in town.nodes.items():
        if people.offers_everything(name):
            in_use = {part.gpu for grip in node.judge.grips.values() for part in grip.parts}
            used = oracle.taken(name, claims) | in_use | people.wished(name)
            free |= {gpu.address for gpu in SPEC.gpus} - used
    return free


def _has_claims(pod: Object, claims: list[Object]) -> bool:
    """Its claims are there, and it waits for no device of theirs that is somewhere else."""
    named = {claim["metadata"]["name"]: claim for claim in claims}
    return all(
        name in named and not deleting(named[name]) and _allocation(named[name]) is None
        for _, name in claim_names(pod)
        if name is not None
    )


def _excused(pod: str, node: str, pods: dict[str, Object], town: Town, people: People) -> bool:
    """Whether people are in its way, or one who looks on needs what passing through takes away."""
    if node in people.paused or people.wished(node):
        return True
    claims = {claim["metadata"]["name"]: claim for claim in town.cluster.get(CLAIMS)["items"]}
    if any(name not in claims or _allocation(claims[name]) is None for _, name in claim_names(pods[pod])):
        return True  # somebody has taken it away by force
    known = {claim["metadata"]["uid"] for claim in claims.values()}
    if town.nodes[node].marks() - known:
        return True  # from a pod that is still there, and may hold what this one was given since
    uses = {people.uses[name] for name, each in pods.items() if each["spec"].get("nodeName") == node}
    return {"vfio", "monitor"} <= uses


def _allocation(claim: Object) -> Object | None:
    found: Object | None = at(claim, "status", "allocation")
    return found


def _left(town: Town) -> list[str]:
    left = [f"pod {name}" for name in town.pods()]
    left += [f"claim {claim['metadata']['name']}" for claim in town.cluster.get(CLAIMS)["items"]]
    for name, node in town.nodes.items():
        state = town.node_state(name)
        left += [f"{name}: entry {each['name']}" for each in at(state, "spec", "allocations") or ()]
        left += [f"{name}: {each['name']} {each['phase']}" for each in at(state, "status", "allocations") or ()]
        left += [f"{name}: {each}" for each in at(state, "status", "plan", "blocked") or ()]
        left += [f"{name}: mark {uid}" for uid in node.marks()]
        held = Path(node.bench.roots.held_file)
        claims = json.loads(held.read_bytes())["claims"] if held.exists() else ()
        left += [f"{name}: held {uid}" for uid in claims]
        left += [f"{name}: {path.name}" for path in node.bench.cdi.iterdir()]
        left += [f"{name}: layout of {pf}" for pf in node.ownership().layouts]
        left += [f"{name}: withdrawn {each}" for each in at(state, "status", "withdrawn") or ()]
        left += [] if node.agent.is_quiet else [f"the agent of {name} does not rest"]
    return left
