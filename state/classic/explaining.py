"""What becomes of a claim on every node, for people who ask why it waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from state.classic.placing import Unsuitable, place
from state.classic.room import NodeRoom
from state.classic.spots import Policy
from state.classic.wishes import Wish
from state.dra.node_object import EntryDevice

_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAnswer:
    """Whether a node can serve a claim; ``text`` has the devices or why not."""

    node: str
    fits: bool
    text: str

    def __str__(self) -> str:
        return f"{self.node}: {'fits: ' if self.fits else ''}{self.text}"


def explain_claim(rooms: Iterable[NodeRoom], wish: Wish, policy: Policy) -> tuple[NodeAnswer, ...]:
    """The answer of each node, for this claim without any others, in the order of ``rooms``."""
    answers = []
    for room in rooms:
        outcome = place(room, [wish], policy)
        if isinstance(outcome, Unsuitable):
            answers.append(NodeAnswer(node=room.node, fits=False, text=outcome.reasons[wish.uid]))
        else:
            answers.append(NodeAnswer(node=room.node, fits=True, text=_told(outcome.devices[wish.uid])))
    return tuple(answers)


def _told(devices: tuple[EntryDevice, ...]) -> str:
    told = ", ".join(device.device for device in devices[:_SHOWN])
    return told if len(devices) <= _SHOWN else f"{told} and {len(devices) - _SHOWN} more"
