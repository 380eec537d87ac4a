"""Whatever happens in whatever order, the engine keeps its promises."""

import os

import pytest
from hypothesis import settings

from tests.model.rules import Cluster, Standalone

FACTOR = int(os.environ.get("MODEL_FACTOR", "1"))
"""For long runs by hand: so many times the examples."""


class ClusterByFuse(Cluster):
    fuse = True


class StandaloneByFuse(Standalone):
    fuse = True


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=100 * FACTOR, stateful_step_count=30)
TestStandalone = Standalone.TestCase
TestStandalone.settings = settings(max_examples=100 * FACTOR, stateful_step_count=30)
TestClusterByFuse = pytest.mark.root(pytest.mark.fuse(ClusterByFuse.TestCase))
TestClusterByFuse.settings = settings(max_examples=25, stateful_step_count=12)
TestStandaloneByFuse = pytest.mark.root(pytest.mark.fuse(StandaloneByFuse.TestCase))
TestStandaloneByFuse.settings = settings(max_examples=25, stateful_step_count=12)
