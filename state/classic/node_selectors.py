"""Node selectors of the core API: terms of which one has to match, each of requirements that all have to.

Semantics of ``v1.NodeSelector`` (Kubernetes API reference): a term without requirements matches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """``operator`` is In, NotIn, Exists, DoesNotExist, Gt or Lt; others match nothing."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, found: Mapping[str, str]) -> bool:
        """Whether labels, or fields, are as required."""
        value = found.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt" if value is not None and len(self.values) == 1:
                return self._compares(value)
            case _:
                return False

    def _compares(self, value: str) -> bool:
        try:
            here, bound = int(value), int(self.values[0])
        except ValueError:
            return False
        return here > bound if self.operator == "Gt" else here < bound


class Term(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Requirements on labels, and on fields (there is but ``metadata.name``)."""

    match_expressions: tuple[Requirement, ...] = ()
    match_fields: tuple[Requirement, ...] = ()

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a node meets all of it."""
        if not self.match_expressions and not self.match_fields:
            return False
        fields = {"metadata.name": name}
        return all(one.matches(labels) for one in self.match_expressions) and all(
            one.matches(fields) for one in self.match_fields
        )


class NodeSelector(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Nodes that meet any of the terms."""

    node_selector_terms: tuple[Term, ...] = ()

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether a node is among them."""
        return any(term.matches(name, labels) for term in self.node_selector_terms)
