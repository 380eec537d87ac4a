"""Figures: what was measured, beside its budget."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MET, MISSED, NO_BUDGET = "met", "MISSED", ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing that was measured, often several times.

    ``samples`` and the budgets are in ``unit``; the budget of the median is ``budget``, that of the 99th
    percentile ``budget_p99``. Counts and sizes have one sample.
    """

    name: str
    samples: tuple[float, ...]
    unit: str = "ms"
    budget: float | None = None
    budget_p99: float | None = None
    note: str = ""

    @property
    def p50(self) -> float:
        return statistics.median(self.samples)

    @property
    def p99(self) -> float:
        """The sample that 99 % of all samples do not exceed; of few samples the biggest."""
        return sorted(self.samples)[math.ceil(0.99 * len(self.samples)) - 1]

    @property
    def verdict(self) -> str:
        pairs = [(self.p50, self.budget), (self.p99, self.budget_p99)]
        held = [value <= budget for value, budget in pairs if budget is not None]
        return (MET if all(held) else MISSED) if held else NO_BUDGET


def milliseconds(name: str, seconds: Sequence[float], **more: float | str | None) -> Figure:
    """A figure in milliseconds from samples in seconds."""
    return Figure(name=name, samples=tuple(1000 * value for value in seconds), **more)  # type: ignore[arg-type]


def as_table(figures: Iterable[Figure]) -> str:
    """The figures for people."""
    rows = [("figure", "p50", "p99", "unit", "budget", "", "n", "note")]
    for figure in figures:
        many = len(figure.samples) > 1
        budgets = [format_number(one) for one in (figure.budget, figure.budget_p99) if one is not None]
        rows.append(
            (
                figure.name,
                format_number(figure.p50),
                format_number(figure.p99) if many else "",
                figure.unit,
                " / ".join(budgets),
                figure.verdict,
                str(len(figure.samples)) if many else "",
                figure.note,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (1, 2, 4, 6)
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_json(figures: Iterable[Figure]) -> str:
    """The figures for machines, one object each."""
    return json.dumps(
        [
            {
                "figure": figure.name,
                "unit": figure.unit,
                "p50": figure.p50,
                "p99": figure.p99,
                "samples": len(figure.samples),
                "budget": figure.budget,
                "budgetP99": figure.budget_p99,
                "met": {MET: True, MISSED: False}.get(figure.verdict),
                "note": figure.note,
            }
            for figure in figures
        ],
        indent=2,
    )


def format_number(value: float) -> str:
    """With as many digits as mean something."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}"
