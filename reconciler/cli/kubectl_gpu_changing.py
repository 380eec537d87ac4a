"""``kubectl gpu drain`` and ``release``: what people want of a node, written by server-side apply.

Each word is applied under a field manager of its own, named after what it is about. So nothing else in the spec is
read, written or owned, two people can't undo each other's words, and taking one back leaves what others said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from reconciler.cli.kubectl_gpu_arguments import Asked
from reconciler.cli.kubectl_gpu_objects import (
    WAITING,
    FoundClaim,
    Node,
    all_claims,
    decode_node,
    find_claim,
    no_such,
    path_of,
    read_node,
    read_nodes,
    require_gpu,
)
from reconciler.cli.output import write_data
from reconciler.cli.problems import CommandError
from reconciler.cli.terminal import Terminal
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Conflict
from state.manifest import API_VERSION, KIND, OverrideMode

NOT_SO = 2

_LOOK_EVERY: Final = 0.25  # seconds
_DRAIN: Final = OverrideMode.DRAIN.value


class Change(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was asked of a node. ``done`` says whether it has come about; None if nobody waited for it.

    ``users`` are those who have the devices concerned, now.
    """

    node: str
    what: str
    change: str
    dry_run: bool
    users: tuple[str, ...]
    done: bool | None


def drain(asked: Asked, client: KubeClient, screen: Terminal) -> int:
    """Let nobody new use a GPU, or let it be used again."""
    node, gpu = _place(asked, read_nodes(client, asked.node))
    _refuse_to_contradict(node, gpu, asked)
    wanted = {} if asked.undo else {"overrides": [_wish(node, gpu, asked.reason)]}
    node = _apply(client, node, manager_of_drain(gpu), wanted, asked)
    if asked.undo and (left := node.override_of(gpu)) is not None:
        by = ", ".join(node.owners_of_override(gpu))
        raise CommandError(
            f"{gpu} on {node.name}: stays {left.mode}, as {by} wants it: kubectl edit gns {node.name}"
        )

    def is_done(node: Node) -> bool:
        users, mode = _state_of(node, gpu)
        if asked.undo:
            return node.is_followed and mode != _DRAIN
        return node.is_followed and mode == _DRAIN and not users and node.withdrawal_of(gpu) != WAITING

    node, done = _wait(client, node, is_done, asked)
    change = Change(
        node=node.name,
        what=gpu,
        change="undrain" if asked.undo else "drain",
        dry_run=asked.dry_run,
        users=_state_of(node, gpu)[0],
        done=done,
    )
    return _tell(change, _drain_in_words(change, node), asked, screen)


def release(asked: Asked, client: KubeClient, screen: Terminal) -> int:
    """Have the node take back what a claim holds."""
    nodes = read_nodes(client, asked.node)
    found = find_claim(asked.name, asked.namespace, nodes)
    if found is None:
        raise CommandError(no_such(asked.name, "claim on any node", all_claims(nodes)))
    if found.entry is None and found.allocation is not None and found.allocation.origin != "claim":
        raise CommandError(
            f"{found.called}: is a manual allocation: take it out of spec.manualAllocations instead"
        )
    node = _apply(client, found.node, manager_of_release(found.uid), {"releases": [found.uid]}, asked)

    def is_done(node: Node) -> bool:
        return node.is_followed and all(one.name != found.uid for one in node.allocations)

    node, done = _wait(client, node, is_done, asked)
    in_use = found.allocation is not None and found.allocation.in_use
    change = Change(
        node=node.name,
        what=found.uid,
        change="release",
        dry_run=asked.dry_run,
        users=(found.called,) if in_use and not done else (),
        done=done,
    )
    return _tell(change, _release_in_words(change, found, node), asked, screen)


def manager_of_drain(gpu: str) -> str:
    """The field manager of a drain."""
    return f"kubectl-gpu-drain-{gpu}"


def manager_of_release(uid: str) -> str:
    """The field manager of a release."""
    return f"kubectl-gpu-release-{uid}"


def _place(asked: Asked, nodes: tuple[Node, ...]) -> tuple[Node, str]:
    """The node and name of the GPU. The drain of a GPU that is gone can be undone."""
    overridden = [node for node in nodes if node.override_of(asked.name) is not None]
    if asked.undo and len(overridden) == 1:
        return overridden[0], asked.name
    found = require_gpu(asked.name, nodes)
    return found.node, found.gpu.name


def _wish(node: Node, gpu: str, reason: str) -> dict[str, str]:
    """The override; a reason that was given before stays if there is no new one."""
    before = node.override_of(gpu)
    if not reason and before is not None and manager_of_drain(gpu) in node.owners_of_override(gpu):
        reason = before.reason
    return {"device": gpu, "mode": _DRAIN, **({"reason": reason} if reason else {})}


def _refuse_to_contradict(node: Node, gpu: str, asked: Asked) -> None:
    """An override of somebody else that wants something else is theirs to change."""
    override = node.override_of(gpu)
    others = [name for name in node.owners_of_override(gpu) if name != manager_of_drain(gpu)]
    if override is None or override.mode == _DRAIN or not others:
        return
    reason = f" ({override.reason})" if override.reason else ""
    there = f"its override {override.mode}{reason} is by {', '.join(others)}: kubectl edit gns {node.name}"
    raise CommandError(f"{gpu} on {node.name}: {'is not drained' if asked.undo else 'not changed'}, {there}")


def _apply(client: KubeClient, node: Node, manager: str, spec: Mapping[str, object], asked: Asked) -> Node:
    """The object as it is, or with a dry run would be, afterwards. The uid keeps it from being made anew."""
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": node.name, "uid": node.metadata.uid},
        "spec": spec,
    }
    dry_run = (("dryRun", "All"),) if asked.dry_run else ()
    try:
        answer = client.apply(path_of(node.name), msgspec.json.encode(body), field_manager=manager, query=dry_run)
    except Conflict as error:
        raise CommandError(f"{node.name}: somebody else wants something else there: {error.message}") from error
    return decode_node(answer, node.name)


def _wait(
    client: KubeClient, node: Node, is_done: Callable[[Node], bool], asked: Asked
) -> tuple[Node, bool | None]:
    """The node at the end, and whether it came to be as asked; None if it was not waited for."""
    if not asked.wait or asked.dry_run:
        return node, None
    never, deadline = threading.Event(), time.monotonic() + asked.timeout
    while not is_done(node):
        left = deadline - time.monotonic()
        if left <= 0:
            return node, False
        never.wait(min(_LOOK_EVERY, left))
        node = read_node(client, node.name)
    return node, True


def _state_of(node: Node, gpu: str) -> tuple[tuple[str, ...], str]:
    """Who uses a GPU, and the mode of the override in force on it."""
    device = next((one for one in node.devices if one.name == gpu), None)
    return (device.users, device.override) if device is not None else ((), "")


def _tell(change: Change, words: str, asked: Asked, screen: Terminal) -> int:
    if asked.format.for_people:
        screen.say(words + (" (dry run: nothing was changed)" if change.dry_run else ""))
    else:
        write_data(screen, asked.format, change)
    return NOT_SO if change.done is False else 0


def _drain_in_words(change: Change, node: Node) -> str:
    where = f"{change.what} on {change.node}"
    if change.change == "undrain":
        return f"{where}: can be used again" + ("; not seen by the node yet" if change.done is False else "")
    if change.users:
        return f"{where}: nobody new gets it; still used by {', '.join(change.users)}"
    if change.done is not False:
        return f"{where}: nobody new gets it, and nobody uses it"
    if node.withdrawal_of(change.what) == WAITING:
        return f"{where}: nobody uses it; waits for the controller to confirm that no claim was given it meanwhile"
    return f"{where}: nobody uses it; not in force on the node yet"


def _release_in_words(change: Change, found: FoundClaim, node: Node) -> str:
    where = f"{found.called} ({found.uid}) on {change.node}"
    if change.done:
        return f"{where}: taken back"
    now = next((one for one in node.allocations if one.name == found.uid), None)
    why = f"; {now.phase}: {now.message}" if now is not None and now.message else ""
    if change.done is False:
        return f"{where}: not taken back yet{why}"
    return f"{where}: is taken back if no process is seen that has its devices open"
