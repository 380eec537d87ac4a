"""Whatever happens in whatever order: no device is given twice, no held device vanishes, all comes to rest.

A scheduler allocates from slices as it last saw them; the controller projects claims late; the kubelet deletes
slices; people change the policy and fix layouts; the agent restarts; the server drops features.
"""

from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from state.ids import parse_logical_device
from state.manifest import (
    AllocatedDevice,
    ClaimAllocation,
    Layout,
    Override,
    OverrideMode,
    Policy,
    Spec,
    VirtualFunctions,
)
from state.status import NodeStatus
from tests.slices.hardware import MIB, Gpu, clashes
from tests.slices.machines import status_of, tables
from tests.slices.scene import Scene
from tests.slices.scheduler import Claim, Scheduler

KINDS = ("gpu", "vf", "shared")
NEEDS: tuple[dict[str, int], ...] = (
    {},
    {"memory": 3000 * MIB},
    {"millicores": 100},
    {"memory": MIB, "millicores": 5},
)
SERVERS: tuple[tuple[str, ...], ...] = ((), (), ("counters",), ("taints",), ("sharing", "counters", "taints"))
FIXED = ("flex170_m4", "flex170_m8", None)


class AnyOrder(RuleBasedStateMachine):
    """One node with two GPUs, one of which can be split."""

    def __init__(self) -> None:
        super().__init__()
        self.base = status_of("flex170")
        igpu = status_of("igpu").devices
        self.base = replace(
            self.base, devices=tuple(sorted((*self.base.devices, *igpu), key=lambda gpu: gpu.name))
        )
        self.flex = status_of("flex170").devices[0]
        self.gpus = {gpu.name: _hardware(gpu) for gpu in self.base.devices}
        self.scheduler = Scheduler()
        self.entries: tuple[Claim, ...] = ()
        self.confirmed: dict[str, str] = {}
        self.policy = Policy(layout=Layout.DYNAMIC)
        self.fixed: str | None = None
        self.is_fixed = False
        self.wishes = 0
        self.sick = False

    @initialize(off=st.sampled_from(SERVERS))
    def power_on(self, off: Sequence[str]) -> None:
        self.scene = Scene("1.36", *off)
        self.publish()

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            self.scene.publisher.stop()

    # -- the node --------------------------------------------------------------------------------------------

    @rule()
    def publish(self) -> None:
        self.scene.publisher.offer(self.status(), self.spec())
        self.scene.settle()
        published = self.scene.devices().keys()
        for claim in self.entries:
            assert claim.device in published, f"{claim.device} is held and gone"

    @rule()
    def rest(self) -> None:
        self.publish()
        written = len(self.scene.writes())
        self.publish()
        assert len(self.scene.writes()) == written, "it goes on writing"

    def status(self) -> NodeStatus:
        gpus = []
        for gpu in self.base.devices:
            if gpu.name == self.flex.name and self.is_fixed:
                gpu = replace(gpu, override="Fixed")
            gpus.append(gpu)
        wished = self.is_fixed and not any(self._stands_in_the_way(claim) for claim in self.entries)
        withdrawn = {self.flex.name: f"loop-{self.wishes}"} if wished else {}
        return replace(self.base, devices=tuple(gpus), withdrawn=withdrawn)

    def _stands_in_the_way(self, claim: Claim) -> bool:
        logical = parse_logical_device(claim.device)
        return logical.pf == self.flex.name and not (
            self.fixed is not None and logical.index is not None and self.fixed.endswith(f"_{logical.mode}")
        )

    def spec(self) -> Spec:
        overrides: tuple[Override, ...] = ()
        if self.is_fixed:
            vfs = None if self.fixed is None else VirtualFunctions(profile=self.fixed)
            overrides = (Override(device=self.flex.name, mode=OverrideMode.FIXED, virtual_functions=vfs),)
        return Spec(
            policy=self.policy,
            overrides=overrides,
            allocations=tuple(_entry(claim) for claim in self.entries),
            withdrawals_confirmed=self.confirmed,
        )

    # -- people ----------------------------------------------------------------------------------------------

    @rule(
        layout=st.sampled_from(Layout),
        profiles=st.sampled_from((None, ("m4",), ("m8", "m4"), ("fs3",), ())),
        shared=st.booleans(),
    )
    def change_policy(self, layout: Layout, profiles: tuple[str, ...] | None, shared: bool) -> None:
        self.policy = Policy(layout=layout, profiles=profiles, shared_memory=shared)
        self.publish()

    @rule(
        first=st.sampled_from(Layout),
        then=st.sampled_from(Layout),
        kind=st.sampled_from(KINDS),
        profiles=st.sampled_from((None, ("m8",))),
        projected=st.booleans(),
    )
    def change_policy_in_the_midst_of_it(
        self, first: Layout, then: Layout, kind: str, profiles: tuple[str, ...] | None, projected: bool
    ) -> None:
        """A claim comes just before, others just after."""
        self.change_policy(first, None, shared=True)
        self.allocate_what_there_is([kind])
        if projected:
            self.project()
        self.change_policy(then, profiles, shared=False)
        self.allocate_what_there_is([*KINDS, *KINDS])

    @rule(profile=st.sampled_from(FIXED))
    def fix(self, profile: str | None) -> None:
        self.fixed, self.is_fixed = profile, True
        self.wishes += 1
        self.publish()

    @rule()
    def unfix(self) -> None:
        self.is_fixed = False
        self.publish()

    # -- the cluster -----------------------------------------------------------------------------------------

    @rule()
    def scheduler_looks(self) -> None:
        self.scheduler.slices = self.scene.slices()

    @rule(kind=st.sampled_from(KINDS), needs=st.sampled_from(NEEDS), pick=st.integers(0, 20), late=st.booleans())
    def allocate(self, kind: str, needs: dict[str, int], pick: int, late: bool) -> None:
        """``late``: by slices as they were when it looked last."""
        if not late:
            self.scheduler_looks()
        self.scheduler.allocate(kind, needs, pick=pick)

    @rule(kinds=st.lists(st.sampled_from(KINDS), max_size=6))
    def allocate_what_there_is(self, kinds: list[str]) -> None:
        self.scheduler_looks()
        for kind in kinds:
            self.scheduler.allocate(kind, {})

    @precondition(lambda self: self.scheduler.claims)
    @rule(which=st.integers(0, 20))
    def deallocate(self, which: int) -> None:
        self.scheduler.claims.pop(which % len(self.scheduler.claims))

    @rule()
    def project(self) -> None:
        self.entries = tuple(self.scheduler.claims)

    @rule(quick=st.sampled_from(KINDS))
    def confirm(self, quick: str) -> None:
        """A second after a withdrawal was told, schedulers have seen the slices; then all claims are listed.

        Somebody is ``quick`` and gets a device before the node hears of the answer.
        """
        told = self.scene.publisher.withdrawn(self.status().withdrawn)
        self.scheduler_looks()
        self.project()
        claimed = {claim.device for claim in self.entries}
        claimed |= {parse_logical_device(claim.device).pf for claim in self.entries}
        self.confirmed = {name: token for name, token in told.items() if name not in claimed}
        self.scheduler.allocate(quick, {})
        self.publish()

    @rule()
    def kubelet_deletes_slices(self) -> None:
        self.scene.wipe()

    @rule()
    def agent_restarts(self) -> None:
        # Claims that nobody has told of yet, with slices deleted at the same time, are nobody's to know.
        self.project()
        self.scene.restart(self.scene.publisher.withdrawn(self.status().withdrawn))

    @invariant()
    def nothing_is_given_twice(self) -> None:
        assert clashes(self.scheduler.claims, self.gpus) == []


def _hardware(gpu: Any) -> Gpu:
    total = 0 if gpu.sriov is None else gpu.sriov.total
    named = {profile.mode: profile.count for profile in tables().profiles.of(int(gpu.pci_id, 16))}
    named |= {f"fs{count}": count for count in range(1, total + 1)}
    return Gpu(memory=None if gpu.memory is None else gpu.memory.bytes, vfs=named)


def _entry(claim: Claim) -> ClaimAllocation:
    gpu = parse_logical_device(claim.device).pf
    share = f"share-{claim.number}" if claim.divided else ""
    device = AllocatedDevice(
        request="r", pool="node-a", device=claim.device, physical_function=gpu, share_id=share
    )
    return ClaimAllocation(
        name=f"uid-{claim.number}", claim_namespace="d", claim_name="c", source="v1", devices=(device,)
    )


AnyOrder.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
