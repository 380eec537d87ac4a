"""A simulated machine behind a real file system, and the host that steps are applied to."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gpusim import Delays, GpuSpec, Machine, MachineSpec, SriovSpec, Uevent
from gpusim.fuse_face import mounted
from reconciler.node.apply_host import ApplyHost, KernelWrite, Timeouts
from reconciler.node.roots import Roots
from state.ids import DeviceName, PciAddress, Slot

ADDRESS = PciAddress("0000:03:00.0")
DEVICE = "bus/pci/devices/0000:03:00.0"

FLEX = GpuSpec(
    address=ADDRESS, device=0x56C0, driver="i915", vram_mib=16256,
    sriov=SriovSpec(total=31, iov="prelim_iov"),
)  # fmt: skip
FLEX_IOV = GpuSpec(
    address=ADDRESS, device=0x56C0, driver="i915", vram_mib=16256, sriov=SriovSpec(total=31, iov="iov")
)
# The real one has 63 VFs; every one costs a hundred reads through FUSE.
MAX = GpuSpec(
    address=ADDRESS, device=0x0BD5, driver="i915", vram_mib=131072, tiles=2,
    sriov=SriovSpec(total=8, iov="prelim_iov"),
)  # fmt: skip
INTEGRATED_I915 = GpuSpec(
    address=ADDRESS, device=0x46A6, driver="i915", sriov=SriovSpec(total=7, iov="prelim_iov")
)
MAINLINE_I915 = GpuSpec(address=ADDRESS, device=0x56C0, driver="i915", sriov=SriovSpec(total=31))
XE = GpuSpec(address=ADDRESS, device=0xE212, driver="xe", vram_mib=16304, sriov=SriovSpec(total=12))
XE_VRAM = GpuSpec(
    address=ADDRESS, device=0xE211, driver="xe", vram_mib=24480, gts_per_tile=2,
    sriov=SriovSpec(total=12, vram_quota=True),
)  # fmt: skip
XE_DEBUGFS = GpuSpec(
    address=ADDRESS, device=0xE211, driver="xe", vram_mib=24480, gts_per_tile=2,
    sriov=SriovSpec(total=12, debugfs=True),
)  # fmt: skip


def name_of(gpu: GpuSpec) -> DeviceName:
    """What the driver calls this GPU."""
    return DeviceName(f"0000-03-00-0-{gpu.device:#06x}")


def slot_of(gpu: GpuSpec, vf: int = -1) -> Slot:
    return Slot(pf=name_of(gpu), vf=vf)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """``writes`` are those tried so far: path below sysfs, value."""

    machine: Machine
    host: ApplyHost
    gpu: GpuSpec
    writes: list[tuple[str, str]] = field(default_factory=list)

    def read(self, path: str) -> str:
        """An attribute of the GPU, seen from the kernel's side."""
        return self.machine.sysfs.read(f"{DEVICE}/{path}").decode().strip()

    def driver(self, address: str = ADDRESS) -> str | None:
        link = f"bus/pci/devices/{address}/driver"
        tree = self.machine.sysfs
        return tree.readlink(link).rpartition("/")[2] if tree.islink(link) else None

    def override(self, address: str = ADDRESS) -> str:
        return self.machine.sysfs.read(f"bus/pci/devices/{address}/driver_override").decode().strip()

    def written(self, name: str) -> list[str]:
        """The values tried on attributes of this name."""
        return [value for path, value in self.writes if path.rpartition("/")[2] == name]


@contextlib.contextmanager
def bench(gpu: GpuSpec, *, delays: Delays | None = None, seconds: float = 2.0) -> Iterator[Bench]:
    """A machine with one GPU, its sysfs mounted. Waits of the steps end after ``seconds``."""
    machine = Machine(MachineSpec(description="one GPU", gpus=(gpu,)), delays=delays or Delays())
    stirred = threading.Condition()
    writes: list[tuple[str, str]] = []

    def stir(event: Uevent) -> None:
        with stirred:
            stirred.notify_all()

    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory, "sys")
        where.mkdir()

        def note(write: KernelWrite) -> None:
            writes.append((write.path.removeprefix(f"{where}/"), write.value))

        host = ApplyHost(
            roots=Roots(sysfs=str(where), cdi=str(Path(directory, "cdi"))),
            clock=time.monotonic,
            stirred=stirred,
            timeouts=Timeouts(links=seconds, driver=seconds),
            writing=note,
        )
        stop = machine.listen(stir)
        with mounted(machine.sysfs, where):
            yield Bench(machine=machine, host=host, gpu=gpu, writes=writes)
        stop()
