"""A claim that no node has: who is to allocate it and, where that is our controller, what each node says to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import msgspec

from reconciler.cli.tables import Cell, fields, table
from reconciler.cli.terminal import Colour, Terminal
from reconciler.controller.classic.asking import Asking
from reconciler.controller.front_ends import Classic, FrontEnd, NoFrontEnd, discover
from reconciler.controller.node_states import NODE_STATES
from reconciler.node.tables import load_tables
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import NotFound
from reconciler.runtime.kube.listing import list_all
from state.classic.claims import ClassicClaim
from state.classic.classes import for_claim
from state.classic.explaining import explain_claim
from state.classic.parameters import ParametersError
from state.classic.sources import RoomUnknown, room_on
from state.classic.spots import Policy
from state.classic.wishes import Wish
from state.dra.node_object import read_node_object
from state.dra.resource_claims import ClaimRef


class NodeSays(msgspec.Struct, frozen=True, kw_only=True):
    """What a node would do: ``text`` has the devices it would give, or why it gives none."""

    node: str
    fits: bool
    text: str


class WaitingExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """A claim without a node: ``why`` as far as it lies with the claim, else ``nodes`` with what each would do."""

    name: str
    why: str
    nodes: tuple[NodeSays, ...]


def find_waiting(name: str, namespace: str, client: KubeClient) -> WaitingExplanation | None:
    """The claim called NAMESPACE/NAME or NAME; None if there is none. Raises ApiError."""
    ref = ClaimRef(*name.split("/", 1)) if "/" in name else ClaimRef(namespace or "default", name)
    try:
        row = discover(client)
        raw = client.get(row.claim_path(ref))
    except (NoFrontEnd, NotFound):
        return None
    if row.classic is None:
        why = "not allocated on any node: that is for the scheduler; see the events of its pods"
        return WaitingExplanation(name=str(ref), why=why, nodes=())
    return _explain(client, row, row.classic, raw)


def tell_waiting(found: WaitingExplanation, screen: Terminal) -> Iterator[str]:
    """What is known, for people."""
    told = [("Claim", Cell(text=found.name, colour=Colour.HEADING)), ("Why it waits", Cell(text=found.why))]
    yield fields([(name, cell) for name, cell in told if cell.text], screen)
    if found.nodes:
        rows = [(one.node, "yes" if one.fits else "no", one.text) for one in found.nodes]
        yield table(screen, ("node", "fits", "devices, or why not"), rows)


def _explain(client: KubeClient, row: FrontEnd, classic: Classic, raw: bytes) -> WaitingExplanation:
    claim = classic.reader.negotiated(raw)
    try:
        wish = _wish(client, row, classic, claim)
    except ParametersError as error:
        return WaitingExplanation(name=str(claim.ref), why=str(error), nodes=())
    if wish is None:
        why = f"its class {claim.class_name} is none of ours, or there is no such class"
        return WaitingExplanation(name=str(claim.ref), why=why, nodes=())
    why = "" if claim.immediate else "the scheduler has yet to choose one of these nodes for a pod that has it"
    return WaitingExplanation(name=str(claim.ref), why=why, nodes=_answers(client, wish))


def _wish(client: KubeClient, row: FrontEnd, classic: Classic, claim: ClassicClaim) -> Wish | None:
    try:
        found = classic.read_class(client.get(row.path(f"{classic.classes}/{claim.class_name}")))
    except NotFound:
        return None
    of_class = for_claim(found, claim)
    return Asking(client, time.monotonic).wish(claim, of_class) if of_class.ours else None


def _answers(client: KubeClient, wish: Wish) -> tuple[NodeSays, ...]:
    profiles = load_tables(os.devnull).profiles
    nodes = list_all(client, NODE_STATES, lambda found: read_node_object(found.body, inventory=True)).objects
    answers = []
    for node in sorted(nodes, key=lambda node: node.name):
        try:
            (answer,) = explain_claim([room_on(node, profiles)], wish, Policy())
            answers.append(NodeSays(node=node.name, fits=answer.fits, text=answer.text))
        except RoomUnknown as error:
            answers.append(NodeSays(node=node.name, fits=False, text=str(error)))
    return tuple(answers)
