import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.places import Places
from tests.unit.plugin.stand import Agent, Kubelet, places_at, running, tell_server


@pytest.fixture
def places() -> Iterator[Places]:
    """A machine that was booted. Its paths are short, as those of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="gpu-") as root:
        yield places_at(Path(root))


@pytest.fixture
def agent(places: Places) -> Iterator[Agent]:
    """A node agent at work."""
    agent = Agent(places)
    with agent.at_work():
        yield agent


@pytest.fixture
def kubelet(places: Places, agent: Agent) -> Iterator[Kubelet]:
    """A kubelet that has a running plugin registered."""
    tell_server(places)
    with running(places):
        kubelet = Kubelet(places)
        kubelet.register()
        yield kubelet
