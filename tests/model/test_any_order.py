"""Whatever happens in whatever order, the engine keeps its promises.

MODEL_EXAMPLES=2000 makes it a long run, for a night. MODEL_SHRINK=0, the default where CI is set, stops at the
first counterexample as it is; MODEL_SHRINK=1 makes it small first, which takes minutes.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

from tests.model.rules import Cluster, Standalone

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "60"))
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
if os.environ.get("MODEL_SHRINK", "0" if os.environ.get("CI") else "1") != "0":
    PHASES.append(Phase.shrink)
ANYHOW = settings(
    phases=PHASES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None
)

pytestmark = pytest.mark.timeout(60 + 30 * EXAMPLES)


class ClusterByFuse(Cluster):
    fuse = True


class StandaloneByFuse(Standalone):
    fuse = True


TestCluster = Cluster.TestCase
TestCluster.settings = settings(ANYHOW, max_examples=EXAMPLES, stateful_step_count=30)
TestStandalone = Standalone.TestCase
TestStandalone.settings = settings(ANYHOW, max_examples=EXAMPLES, stateful_step_count=30)
TestClusterByFuse = pytest.mark.root(pytest.mark.fuse(ClusterByFuse.TestCase))
TestClusterByFuse.settings = settings(ANYHOW, max_examples=25, stateful_step_count=15)
TestStandaloneByFuse = pytest.mark.root(pytest.mark.fuse(StandaloneByFuse.TestCase))
TestStandaloneByFuse.settings = settings(ANYHOW, max_examples=25, stateful_step_count=15)
