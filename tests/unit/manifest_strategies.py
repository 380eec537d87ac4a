"""Hypothesis strategies for manifests: any that decode accepts, and parsed documents of every sort."""

from hypothesis import strategies as st

from state import manifest
from state.manifest import NodeState, Override, OverrideDriver, OverrideMode

TEXT = st.text(max_size=12)
NAMES = st.from_regex(r"[a-z]([a-z0-9.-]{0,8}[a-z0-9])?", fullmatch=True)
UIDS = st.uuids().map(str)
BYTES = st.integers(1, 2**63 - 1)

PROFILES = st.builds(manifest.VirtualFunctions, profile=TEXT)


def overrides() -> st.SearchStrategy[Override]:
    fixed = st.builds(
        Override,
        device=TEXT,
        mode=st.just(OverrideMode.FIXED),
        virtual_functions=PROFILES,
        kernel_driver=st.sampled_from([None, OverrideDriver.DRM, OverrideDriver.I915, OverrideDriver.XE]),
        reason=TEXT,
    )
    others = st.builds(
        Override,
        device=TEXT,
        mode=st.sampled_from(OverrideMode),
        kernel_driver=st.sampled_from([None, *OverrideDriver]),
        reason=TEXT,
    )
    return fixed | others


MANUAL_DEVICES = st.builds(
    manifest.ManualDevice,
    device=TEXT,
    memory=st.none() | BYTES,
    kernel_driver=st.sampled_from(manifest.KernelDriver),
    admin_access=st.booleans(),
)
MANUAL_ALLOCATIONS = st.builds(
    manifest.ManualAllocation,
    name=NAMES,
    devices=st.lists(MANUAL_DEVICES, min_size=1, max_size=3, unique_by=lambda one: one.device).map(tuple),
)
ALLOCATED_DEVICES = st.builds(
    manifest.AllocatedDevice,
    request=TEXT,
    pool=TEXT,
    device=TEXT,
    physical_function=TEXT,
    share_id=TEXT,
    virtual_function=st.none() | st.builds(manifest.VirtualFunction, profile=TEXT, index=st.integers(0, 61)),
    memory=st.none() | BYTES,
    millicores=st.none() | st.integers(1, 1000),
    admin_access=st.booleans(),
    kernel_driver=st.sampled_from(manifest.KernelDriver),
)
ALLOCATIONS = st.builds(
    manifest.ClaimAllocation,
    name=UIDS,
    claim_namespace=TEXT,
    claim_name=TEXT,
    source=TEXT,
    devices=st.lists(ALLOCATED_DEVICES, max_size=2).map(tuple),
    config=st.dictionaries(
        TEXT,
        st.builds(manifest.RequestConfig, kernel_driver=st.sampled_from(manifest.KernelDriver)),
        max_size=2,
    ),
    refused=st.none() | st.builds(manifest.ClaimRefusal, path=TEXT, reason=TEXT),
)
POLICIES = st.builds(
    manifest.Policy,
    layout=st.none() | st.sampled_from(manifest.Layout),
    profiles=st.none() | st.lists(TEXT, max_size=3).map(tuple),
    shared_memory=st.none() | st.booleans(),
    binding_conditions=st.none() | st.sampled_from(manifest.BindingConditions),
    reorder=st.none() | st.booleans(),
    linger_seconds=st.none() | st.integers(0, 86400),
)


def node_states(*, cluster: bool) -> st.SearchStrategy[NodeState]:
    """Manifests as decode gives them: well-formed, and without a status."""
    spec = st.builds(
        manifest.Spec,
        paused=st.booleans(),
        policy=POLICIES,
        overrides=st.lists(overrides(), max_size=3, unique_by=lambda one: one.device).map(tuple),
        manual_allocations=st.lists(MANUAL_ALLOCATIONS, max_size=2, unique_by=lambda one: one.name).map(tuple),
        releases=st.lists(UIDS, max_size=2, unique=True).map(tuple),
        allocations=st.lists(ALLOCATIONS, max_size=2 if cluster else 0, unique_by=lambda one: one.name).map(tuple),
        adopted_uid=TEXT,
        withdrawals_confirmed=st.dictionaries(TEXT, TEXT, max_size=2),
    )
    metadata = st.builds(
        manifest.Metadata,
        name=st.none() | TEXT,
        uid=st.none() | TEXT,
        generation=st.none() | st.integers(0, 2**63 - 1),
    )
    return st.builds(
        NodeState,
        api_version=st.just(manifest.API_VERSION),
        kind=st.just(manifest.KIND),
        metadata=metadata,
        spec=spec,
    )


def documents() -> st.SearchStrategy[object]:
    """Whatever JSON can say, and keys that only YAML can."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
        ),
        max_leaves=12,
    )
