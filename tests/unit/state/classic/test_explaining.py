"""What people are told about a claim, node by node."""

from dataclasses import replace

from state.classic.explaining import explain_claim
from state.classic.spots import Policy
from tests.unit.state.classic.nodes import ARC, GIB, gpu, name, room, wish


def test_every_node_has_a_line_with_devices_or_the_reason() -> None:
    nodes = (room(gpu(1), gpu(2, ARC)), replace(room(gpu(1, health="Unhealthy")), node="node-2"))
    answers = explain_claim(nodes, wish("a", "vf", count=5, memory=3 * GIB), Policy())
    assert [str(answer) for answer in answers] == [
        f"node-1: fits: {', '.join(f'{name(1)}-m5-vf{index}' for index in range(4))} and 1 more",
        f"node-2: {name(1)}: is not healthy",
    ]
