"""What the killed agent was at: three GPUs and desired states that follow each other, the last one nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import gpusim

FLEX, B60, B50 = "0000-1a-00-0-0x56c0", "0000-3b-00-0-0xe211", "0000-5e-00-0-0xe212"
_PLACES = (("flex170", "0000:1a:00.0"), ("b60", "0000:3b:00.0"), ("b50", "0000:5e:00.0"))
_MOST_VFS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One desired state, and the marks (nonce by claim UID) that the kubelet plugin has written by then."""

    wanted: Mapping[str, object]
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Stages on one machine. With ``cluster`` the entries are claims, and marks say what is in use."""

    name: str
    cluster: bool
    stages: tuple[Stage, ...]


def machine_spec() -> gpusim.MachineSpec:
    """A Flex 170, an Arc Pro B60 and an Arc Pro B50; few VFs each, to be quick."""
    gpus = []
    for name, address in _PLACES:
        gpu = gpusim.load_machine(name).gpus[0]
        assert gpu.sriov is not None
        sriov = replace(gpu.sriov, total=min(_MOST_VFS, gpu.sriov.total))
        gpus.append(replace(gpu, address=address, bridges=(), sriov=sriov))
    return gpusim.MachineSpec(description="three GPUs to crash on", gpus=tuple(gpus))


def _state(**lists: Sequence[Mapping[str, object]]) -> dict[str, object]:
    spec: dict[str, object] = {"policy": {"lingerSeconds": 0}, **lists}
    return {"apiVersion": "gpu.dra.intel.com/v1alpha1", "kind": "GpuNodeState", "spec": spec}


def _manual(**devices: Mapping[str, object]) -> dict[str, object]:
    return _state(manualAllocations=[{"name": name, "devices": [one]} for name, one in devices.items()])


def _claims(**devices: Mapping[str, object]) -> dict[str, object]:
    return _state(
        allocations=[
            {
                "name": uid,
                "claimNamespace": "default",
                "claimName": f"name-of-{uid}",
                "source": "resource.k8s.io/v1",
                "devices": [{"request": "gpu", "pool": "node", **one}],
            }
            for uid, one in devices.items()
        ]
    )


def _vf(pf: str, profile: str, index: int, **more: object) -> dict[str, object]:
    mode = profile.rpartition("_")[2]
    vf = {"profile": profile, "index": index}
    return {"device": f"{pf}-{mode}", "physicalFunction": pf, "virtualFunction": vf, **more}


def _whole(pf: str, **more: object) -> dict[str, object]:
    return {"device": pf, "physicalFunction": pf, **more}


MANUAL = Scenario(
    name="manual",
    cluster=False,
    stages=(
        Stage(
            wanted=_manual(
                one={"device": f"{FLEX}-m4-vf0"},
                two={"device": f"{FLEX}-m4-vf1"},
                vm={"device": f"{B60}-fs2-vf0", "kernelDriver": "vfio"},
                through={"device": B50, "kernelDriver": "vfio"},
            )
        ),
        Stage(
            wanted=_manual(
                one={"device": f"{FLEX}-m2-vf0"},
                vm={"device": f"{B60}-fs2-vf0"},
                whole={"device": B50},
            )
        ),
        Stage(wanted=_state()),
    ),
)

CLAIMS = Scenario(
    name="claims",
    cluster=True,
    stages=(
        Stage(
            wanted=_claims(a=_vf(FLEX, "flex170_m4", 0), b=_whole(B50, kernelDriver="vfio")),
            marks={"a": "n1", "b": "n1"},
        ),
        Stage(
            wanted=_claims(a=_vf(FLEX, "flex170_m4", 0), c=_vf(B60, "fs2", 1), d=_whole(B50)),
            marks={"a": "n2", "c": "n1"},
        ),
        Stage(wanted=_state()),
    ),
)

SCENARIOS = {scenario.name: scenario for scenario in (MANUAL, CLAIMS)}
