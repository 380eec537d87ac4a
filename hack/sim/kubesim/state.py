"""What all parts of the server share."""

import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from kubesim.clock import Clock, timestamp
from kubesim.conversion import to_internal, to_version
from kubesim.kinds.behaviour import Behaviour
from kubesim.kinds.table import PLAIN, behaviour_of
from kubesim.refusals import not_found
from kubesim.releases import Release
from kubesim.resources import Resource, Target
from kubesim.rules import Node
from kubesim.store import Store
from kubesim.values import Object

NAMESPACES = ("", "namespaces")
SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""What generated names end in: no vowels, no digits that look like letters."""


@dataclass(slots=True, kw_only=True)
class State:
    """Objects, kinds, time and chance.

    `resources` changes as custom resources come and go; `rules` has their CEL rules by group, plural and version.
    """

    store: Store
    release: Release
    clock: Clock
    rng: random.Random
    resources: dict[tuple[str, str], Resource]
    rules: dict[tuple[str, str, str], Node | None] = field(default_factory=dict)

    def now(self) -> str:
        return timestamp(self.clock.now())

    def new_uid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def new_suffix(self) -> str:
        return "".join(self.rng.choices(SUFFIX_LETTERS, k=5))

    def behaviour(self, resource: Resource) -> Behaviour:
        return PLAIN if resource.custom else behaviour_of(resource.key, self.release.minor)

    def find(self, target: Target) -> Object | None:
        """The stored object a target names."""
        return self.store.get(target.resource.table, target.key)

    def need(self, target: Target) -> Object:
        """The stored object a target names. Raises Refusal (404)."""
        found = self.find(target)
        if found is None:
            raise not_found(target.resource.plural, target.resource.group, target.name)
        return found

    def namespace_labels(self, namespace: str) -> dict[str, str]:
        found = self.store.get(NAMESPACES, ("", namespace)) if namespace else None
        labels: dict[str, str] = (found or {"metadata": {}})["metadata"].get("labels") or {}
        return labels

    def presented(self, stored: Object, resource: Resource, version: str) -> Object:
        """A stored object in a version, with its kind and apiVersion."""
        body = to_version(resource, version, stored)
        return {**body, "kind": resource.kind, "apiVersion": resource.api_version(version)}

    def internal(self, sent: Object, target: Target) -> Object:
        """An object of a target's version in the form in which it is stored."""
        return to_internal(target.resource, target.version, sent)

    def served(self) -> Iterable[Resource]:
        return self.resources.values()
