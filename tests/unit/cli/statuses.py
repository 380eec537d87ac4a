"""Status documents made by hand, and a way to run the command line on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from state.records import AppliedDevice
from state.status import (
    AllocationStatus,
    BlockedStatus,
    Condition,
    DeviceStatus,
    MemoryStatus,
    NodesStatus,
    NodeStatus,
    PlannedAction,
    PlanStatus,
    SicknessStatus,
    SriovStatus,
    StatusFile,
    encode_status,
)

BOOT = "11111111-2222-3333-4444-555555555555"
FLEX = "0000-03-00-0-0x56c0"
INTEGRATED = "0000-00-02-0-0x4680"

FLEX_170 = DeviceStatus(
    name=FLEX,
    pci_address="0000:03:00.0",
    pci_id="0x56c0",
    model="Flex 170",
    family="Data Center Flex",
    health="Unhealthy",
    driver="i915",
    memory=MemoryStatus(bytes=17045651456, source="sysfs"),
    ecc="off",
    numa_node=0,
    pcie_root="pci0000:00",
    link="16.0 GT/s PCIe x16",
    integrated=False,
    sriov=SriovStatus(total=31, enabled=4, layout="flex170_m4", owner="ours"),
    nodes=NodesStatus(drm=("dri/card0", "dri/renderD128"), mei=("mei0",)),
    sickness=(SicknessStatus(cause="Wedged", message="said to be wedged"),),
    users=("jupyter",),
)
PLAIN = DeviceStatus(
    name=INTEGRATED,
    pci_address="0000:00:02.0",
    pci_id="0x4680",
    model="UHD 770",
    family="Integrated",
    health="Healthy",
    memory=MemoryStatus(bytes=268435456, source="bar"),
    integrated=True,
)


def node(now: datetime) -> NodeStatus:
    """Two GPUs, an allocation that is ready, one that waits, and a claim that was refused."""
    return NodeStatus(
        boot_id=BOOT,
        version="1",
        conditions=(
            Condition(type="Ready", status="False", reason="Blocked", message="b", last_transition_time=now),
            Condition(type="Stalled", status="True", reason="Refused", message="r", last_transition_time=now),
        ),
        devices=(PLAIN, FLEX_170),
        allocations=(
            AllocationStatus(
                name="jupyter",
                origin="alloc",
                phase="Ready",
                since=now - timedelta(hours=3),
                devices=(AppliedDevice(device=f"{FLEX}-m4-vf0", profile="flex170_m4"),),
                cdi_devices=("intel.com/gpu=alloc-jupyter-0", "intel.com/gpu=jupyter"),
            ),
            AllocationStatus(
                name="vm",
                origin="alloc",
                phase="Blocked",
                since=now - timedelta(minutes=5),
                message="it was given to old; say --force-release old",
                devices=(AppliedDevice(device=f"{FLEX}-m4-vf1", kernel_driver="vfio"),),
                attempts=2,
            ),
            AllocationStatus(
                name="a1b2",
                origin="claim",
                phase="Refused",
                since=now,
                message="no such device",
                claim="lab/train",
            ),
        ),
        plan=PlanStatus(
            actions=(PlannedAction(device=FLEX, action="bind VF 1 to vfio-pci"),),
            blocked=(BlockedStatus(what=f"{FLEX} VF 1", why="in use by a process"),),
        ),
    )


def write_status(where: Path, *, ago: timedelta = timedelta(), boot_id: str = BOOT) -> list[str]:
    """A status file written so long ago. Returns the flags that make the command line read it."""
    now = datetime.now(UTC)
    file = StatusFile(written_at=now - ago, boot_id=boot_id, status=node(now))
    (where / "run/status").mkdir(parents=True)
    (where / "run/status/status.json").write_bytes(encode_status(file))
    kernel = where / "proc/sys/kernel/random"
    kernel.mkdir(parents=True)
    (kernel / "boot_id").write_text(f"{BOOT}\n")
    return ["--run-dir", f"{where}/run", "--procfs-root", f"{where}/proc"]
