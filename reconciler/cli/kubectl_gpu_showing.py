"""``kubectl gpu status`` and ``plan``: the nodes as tables, or as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

from reconciler.cli.allocations import READY, called, devices_of, phase_cell
from reconciler.cli.gpus import health_of, memory_of, vfs_of
from reconciler.cli.kubectl_gpu_arguments import Asked
from reconciler.cli.kubectl_gpu_objects import Node, read_nodes
from reconciler.cli.options import Format
from reconciler.cli.output import age, write_data
from reconciler.cli.tables import Cell, table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.runtime.kube.client import KubeClient
from state.status import DeviceStatus, condition_of

NOT_SO = 2

Row = Sequence[str | Cell]


def show_status(asked: Asked, client: KubeClient, screen: Terminal) -> int:
    """Show how the nodes are."""
    nodes = read_nodes(client, asked.node)
    if not asked.format.for_people:
        write_data(screen, asked.format, {node.name: node.status for node in nodes})
    elif not nodes:
        screen.say("no node has a GpuNodeState")
    else:
        everything = bool(asked.node) or asked.format is Format.WIDE
        screen.say("\n\n".join(_status(nodes, datetime.now(UTC), screen, everything=everything)))
    return 0


def show_plan(asked: Asked, client: KubeClient, screen: Terminal) -> int:
    """Show what the nodes are about to do; exit code 2 if there is anything."""
    nodes = read_nodes(client, asked.node)
    plans = {node.name: node.status.plan for node in nodes if node.status is not None}
    if not asked.format.for_people:
        write_data(screen, asked.format, plans)
    else:
        told = [*_planned(nodes, screen), *_blocked(nodes, screen)]
        screen.say("\n\n".join(told) or screen.paint("nothing to do, and nothing waits", Colour.GOOD))
    return NOT_SO if any(plan.actions or plan.blocked for plan in plans.values()) else 0


def _ready(node: Node) -> Cell:
    """Whether a node is as wanted."""
    ready = condition_of(node.status, "Ready") if node.status is not None else None
    text = ready.status if ready is not None else "Unknown"
    return Cell(text=text, colour=Colour.GOOD if text == "True" else Colour.WAITING)


def _why_not(node: Node) -> str:
    """Why a node is not as wanted, or needs somebody; empty if all is well."""
    if node.status is None:
        return "its agent has not said anything yet"
    stalled, ready = condition_of(node.status, "Stalled"), condition_of(node.status, "Ready")
    if stalled is not None and stalled.status == "True":
        return stalled.message or stalled.reason
    if ready is not None and ready.status != "True":
        return ready.message or ready.reason
    return "" if node.is_followed else "its agent has not read the newest spec yet"


def _status(nodes: Sequence[Node], now: datetime, screen: Terminal, *, everything: bool) -> Iterator[str]:
    """The nodes, and of what is on them only what is not well unless everything is asked for."""
    yield table(
        screen,
        ("node", "ready", "GPUs", "VFs", "claims", "manual", "blocked", "age", "why"),
        [_node_row(node, now) for node in nodes],
    )
    gpus = [
        _gpu_row(node, gpu)
        for node in nodes
        for gpu in node.devices
        if everything or gpu.health != "Healthy" or gpu.override
    ]
    if gpus:
        yield table(
            screen, ("node", "GPU", "model", "driver", "memory", "VFs", "health", "override", "users"), gpus
        )
    allocations = [
        (node.name, called(one), phase_cell(one.phase), age(one.since, now), devices_of(one), one.message)
        for node in nodes
        for one in node.allocations
        if everything or one.phase != READY
    ]
    if allocations:
        yield table(screen, ("node", "claim", "phase", "since", "devices", "message"), allocations)
    if everything:
        yield from _planned(nodes, screen)
    yield from _blocked(nodes, screen)


def _node_row(node: Node, now: datetime) -> Row:
    counts: tuple[int, ...] = ()
    if node.status is not None:
        one = node.status.summary
        counts = (one.gpus, one.virtual_functions, one.claims, one.manual_allocations, one.blocked)
    numbers = [str(count) for count in counts] or [""] * 5
    return (node.name, _ready(node), *numbers, age(node.metadata.creation_timestamp, now), _why_not(node))


def _gpu_row(node: Node, gpu: DeviceStatus) -> Row:
    return (
        node.name,
        gpu.name,
        gpu.model,
        gpu.driver,
        memory_of(gpu),
        vfs_of(gpu),
        health_of(gpu),
        gpu.override,
        ",".join(gpu.users),
    )


def _planned(nodes: Iterable[Node], screen: Terminal) -> Iterator[str]:
    rows = [
        (node.name, one.device, one.action)
        for node in nodes
        if node.status is not None
        for one in node.status.plan.actions
    ]
    if rows:
        yield table(screen, ("node", "GPU", "planned"), rows)


def _blocked(nodes: Iterable[Node], screen: Terminal) -> Iterator[str]:
    rows = [
        (node.name, one.what, one.why)
        for node in nodes
        if node.status is not None
        for one in node.status.plan.blocked
    ]
    if rows:
        yield table(screen, ("node", "blocked", "why"), rows)
