"""What a replica does that does not lead: only what has been left undone for a while."""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 2.0
"""Seconds that others are given."""


class Patience:
    """How long each thing to be done for a node has been waiting, by its description."""

    def __init__(self) -> None:
        self._since: dict[str, dict[str, float]] = {}

    def remaining(self, node: str, undone: tuple[str, ...], now: float) -> float:
        """Seconds until the oldest of these has waited long enough; 0 once it has. Others are forgotten."""
        before = self._since.get(node, {})
        self._since[node] = {what: before.get(what, now) for what in undone}
        return max(0.0, min(self._since[node].values(), default=now) + PATIENCE - now)

    def forget(self, node: str) -> None:
        """Nothing is left undone."""
        self._since.pop(node, None)
