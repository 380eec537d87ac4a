"""How much longer a change of VFs takes than the (simulated) kernel needs for it.

The daemon sees a simulated machine as /sys, hears genuine kernel events, and the kernel takes as long as a real
one: `gpu-simulate --realistic --namespace` starts this module again inside.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import gpusim
from hack.bench.daemon import await_status, phase_of, running
from hack.bench.figures import Figure, milliseconds
from hack.bench.machines import Site, allocation_of, wish
from reconciler.node.roots import Roots

MACHINE = "flex170"


def layout_changes(where: Path, *, times: int) -> list[Figure]:
    """Overhead of making VFs, and of taking them down and making others."""
    where.mkdir()
    simulate = ["gpu-simulate", MACHINE, "--at", str(where), "--realistic", "--namespace", "--"]
    words = [*simulate, sys.executable, "-m", "hack.bench.layouts", str(where), str(times)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=110)
    made, changed = json.loads(done.stdout)
    return [
        milliseconds("VF layout, none → 4: our overhead", made, note=f"kernel: {_enabling(4):.2f} s"),
        milliseconds(
            "VF layout, 4 → 8 or 8 → 4: our overhead",
            changed,
            note=f"kernel: {_disabling(4) + _enabling(8):.2f} or {_disabling(8) + _enabling(4):.2f} s",
        ),
    ]


def _enabling(vfs: int) -> float:
    return gpusim.REALISTIC.enable + vfs * gpusim.REALISTIC.probe


def _disabling(vfs: int) -> float:
    return gpusim.REALISTIC.disable + vfs * gpusim.REALISTIC.reset


def _inside(where: Path, times: int) -> tuple[list[float], list[float]]:
    (gpu,) = gpusim.load_machine(MACHINE).gpus
    name = f"{gpu.address.replace(':', '-').replace('.', '-')}-0x{gpu.device:04x}"
    roots = Roots(
        cdi=str(where / "cdi"), run=str(where / "run"), state=str(where / "lib"), devfs=str(where / "dev")
    )
    site = Site(where=where, roots=roots, gpus=())
    made, changed = [], []
    with running(site):
        for _ in range(times):
            made.append(_take(site, f"{name}-m4-vf0") - _enabling(4))
            changed.append(_take(site, f"{name}-m8-vf0") - _disabling(4) - _enabling(8))
            changed.append(_take(site, f"{name}-m4-vf0") - _disabling(8) - _enabling(4))
            wish(site.file, (), linger=0)
            await_status(site, lambda status: not any(gpu.sriov and gpu.sriov.enabled for gpu in status.devices))
    return made, changed


def _take(site: Site, vf: str) -> float:
    """Seconds from the file's renaming to Ready."""
    began = time.perf_counter()
    wish(site.file, (vf,), linger=0)
    return await_status(site, lambda status: phase_of(status, allocation_of(vf)) == "Ready") - began


if __name__ == "__main__":
    print(json.dumps(_inside(Path(sys.argv[1]), int(sys.argv[2]))))
