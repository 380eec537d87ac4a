"""Metrics that can be looked at."""

from reconciler.node import agent_metrics
from reconciler.runtime.kube import measures
from reconciler.runtime.metrics import NoMetrics

Series = tuple[str, ...]
"""A metric's name and the values of its labels."""


class ShownMetrics(NoMetrics):
    """Those of the node agent: what they show now."""

    def __init__(self) -> None:
        super().__init__((*agent_metrics.DECLARED, *measures.DECLARED))
        self.values: dict[Series, float] = {}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        super().count(name, amount, **labels)
        series = (name, *labels.values())
        self.values[series] = self.values.get(series, 0) + amount

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        super().gauge(name, value, **labels)
        self.values[(name, *labels.values())] = value
