"""The product's reflectors without their threads: they list when told to hear, and are behind until then."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from reconciler.node import cluster_side, slice_publisher
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import ApiError
from reconciler.runtime.kube.reflector import Reflector

T = TypeVar("T")


class HandReflector(Reflector[T]):
    """A reflector whose watch never lasts: all it hears, it hears by listing."""

    begun = False
    ended = False

    def start(self) -> None:
        self.begun = True

    def stop(self, wait: float = 0.0) -> None:
        super().stop(wait)
        self.ended = True

    def hear(self) -> None:
        """What has become of everything since; nothing, if that can't be found out."""
        if not self.begun or self.ended:
            return
        try:
            self._relist()
        except ApiError as error:
            self._wait_after(error, 0.0)


class Ears:
    """All reflectors of the node agents, by whose they are."""

    def __init__(self) -> None:
        self._made: dict[KubeClient, list[HandReflector[object]]] = defaultdict(list)

    @contextmanager
    def listening(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for module in (cluster_side, slice_publisher):
                patch.setattr(module, "Reflector", self._make)
            yield

    def _make(self, client: KubeClient, *given: object, **named: object) -> HandReflector[object]:
        made: HandReflector[object] = HandReflector(client, *given, **named)  # type: ignore[arg-type]
        self._made[client].append(made)
        return made

    def hear(self, client: KubeClient, *, first: bool = False) -> None:
        """Everything that this client's process follows; or ``first`` of all what it never heard."""
        for reflector in list(self._made[client]):
            if not (first and reflector.synced.is_set()):
                reflector.hear()
