"""What people are told of a node's passes, and under whose name its status goes out."""

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

import kubesim
from reconciler.node import cluster_side
from reconciler.node.agent import Pass
from reconciler.node.cluster_side import ClusterSide, Place
from reconciler.node.desired_source import Sourced
from reconciler.node.publisher import Publisher
from reconciler.node.roots import Roots
from reconciler.node.tables import load_tables
from reconciler.runtime.kube import measures
from reconciler.runtime.kube.client import NO_RETRIES, KubeClient
from reconciler.runtime.kube.event_bodies import EventType, Regarding
from reconciler.runtime.metrics import NoMetrics
from state.desired import Desired
from state.manifest import Policy
from state.manifest_decoding import decode
from state.observed import Observed
from state.planning import NOT_SYNCED, Plan
from state.status import AllocationStatus, NodeStatus
from tests.kube_in_memory import InMemory

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SILENT = NodeStatus(boot_id="b", version="1")
ENTRY = AllocationStatus(name="u1", origin="claim", phase="Ready", since=NOW, claim="ml/job")
READY = NodeStatus(boot_id="b", version="1", allocations=(ENTRY,))


class Told:
    """An EventRecorder that keeps what it is given."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def record(self, regarding: Regarding, type: EventType, reason: str, note: str, action: str) -> None:
        """Keep the reason."""
        self.reasons.append(reason)


class Followed:
    """A side that is followed and not run, and what it tells."""

    def __init__(self, where: Path, last: NodeStatus | None) -> None:
        self.told = Told()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster_side, "EventRecorder", lambda *given, **named: self.told)
            self.side = _side(where, last)

    def follow(
        self, status: NodeStatus, *, uid: str | None = "u", stale: frozenset[str] = frozenset()
    ) -> list[str]:
        """The events of one pass; without ``uid`` the desired state is not read yet."""
        head = {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "spec": {}}
        state = None if uid is None else decode({**head, "metadata": {"uid": uid}}, cluster=True)
        self.told.reasons.clear()
        self.side.followed(
            Pass(
                desired=NOT_SYNCED if uid is None else Desired(),
                observed=Observed(boot_id="b", gpus={}),
                plan=Plan(stale=stale),
                status=status,
                busy={},
                source=Sourced(state=state, error=None),
            )
        )
        return self.told.reasons


def _side(where: Path, last: NodeStatus | None) -> ClusterSide:
    roots = Roots(
        sysfs=f"{where}/sys",
        devfs=f"{where}/dev",
        procfs=f"{where}/proc",
        cdi=f"{where}/cdi",
        run=f"{where}/run",
        state=f"{where}/lib",
    )
    place = Place(
        node="n",
        file=where / "node.json",
        roots=roots,
        table=load_tables("/nonexistent").profiles,
        offer=Policy(),
        last_status=last,
    )
    rng = random.Random(1)
    client = KubeClient(InMemory(kubesim.Cluster("1.36")), retries=NO_RETRIES, rng=rng, clock=lambda: 0.0)
    return ClusterSide(
        place, client, metrics=NoMetrics(measures.DECLARED), on_crash=_crashed, clock=lambda: 0.0, rng=rng
    )


def _crashed(error: BaseException) -> None:
    raise error


def test_what_changed_is_told_once(tmp_path: Path) -> None:
    followed = Followed(tmp_path, SILENT)
    assert followed.follow(READY) == ["Ready"]
    assert followed.follow(READY) == []
    assert followed.follow(READY, stale=frozenset({"u2"})) == ["StaleMarkReleased"]
    assert followed.follow(READY, stale=frozenset({"u2"})) == []


def test_after_a_restart_what_was_ready_before_is_not_told_again(tmp_path: Path) -> None:
    followed = Followed(tmp_path, READY)
    assert followed.follow(SILENT, uid=None) == []  # nothing is known of any claim yet
    assert followed.follow(READY) == []


def test_a_status_goes_out_with_the_object_that_it_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[tuple[NodeStatus, str | None]] = []
    monkeypatch.setattr(Publisher, "offer", lambda self, status, uid: offered.append((status, uid)))
    followed = Followed(tmp_path, READY)
    followed.side._publish()
    followed.follow(SILENT, uid="u")
    followed.side._publish()
    followed.follow(SILENT, uid="another")
    followed.side._publish()
    assert offered == [(READY, None), (SILENT, "u"), (SILENT, "another")]
