"""What the simulated kernel itself says of its GPUs, read by the direct face and not as the product reads it."""

import fnmatch
from pathlib import Path

import gpusim
from state.profiles import ProfileTable
from tests.cdi_rules import broken_rules
from tests.engine.machines import TABLES, Bench

QUOTA_FILES = (
    "contexts_quota",
    "doorbells_quota",
    "ggtt_quota",
    "lmem_quota",
    "vram_quota",
    "exec_quantum_ms",
    "preempt_timeout_us",
)
_PROVISIONING = (
    "bus/pci/devices/{address}/drm/card*/prelim_iov/vf*/*",
    "bus/pci/devices/{address}/drm/card*/iov/vf*/*",
    "bus/pci/devices/{address}/sriov_admin/vf*/profile",
    "kernel/debug/dri/{address}/sriov/vf*/tile*",
    "kernel/debug/dri/{address}/sriov/vf*/tile*/gt*",
    "kernel/debug/dri/{address}/gt*/vf*",
)


def pf(address: str) -> str:
    return f"bus/pci/devices/{address}"


def text(machine: gpusim.Machine, path: str) -> str:
    return machine.sysfs.read(path).decode().rstrip("\n")


def num_vfs(machine: gpusim.Machine, address: str) -> int:
    """How many VFs are enabled; 0 without the capability."""
    path = f"{pf(address)}/sriov_numvfs"
    return int(text(machine, path)) if machine.sysfs.exists(path) else 0


def driver(machine: gpusim.Machine, address: str) -> str | None:
    path = f"{pf(address)}/driver"
    return machine.sysfs.readlink(path).rpartition("/")[2] if machine.sysfs.exists(path) else None


def override(machine: gpusim.Machine, address: str) -> str:
    return text(machine, f"{pf(address)}/driver_override")


def vf_addresses(machine: gpusim.Machine, address: str) -> list[str]:
    """The addresses of the VFs that are enabled, in order."""
    links = [f"{pf(address)}/virtfn{index}" for index in range(num_vfs(machine, address))]
    return [machine.sysfs.readlink(link).rpartition("/")[2] for link in links if machine.sysfs.exists(link)]


def vf_drivers(machine: gpusim.Machine, address: str) -> list[str | None]:
    return [driver(machine, vf) for vf in vf_addresses(machine, address)]


def automatic(machine: gpusim.Machine, address: str) -> str | None:
    """i915's switch; None where there is none."""
    files = _glob(machine, f"{pf(address)}/drm/card*/prelim_iov/pf/auto_provisioning")
    return text(machine, files[0]) if files else None


def quotas(machine: gpusim.Machine, address: str) -> dict[tuple[int, str], dict[str, int]]:
    """All quotas that can be read, by VF (from 0) and directory (gt0, profile, tile0 …), 0 where not set."""
    found: dict[tuple[int, str], dict[str, int]] = {}
    for pattern in _PROVISIONING:
        for directory in _glob(machine, pattern.format(address=address)):
            values = {
                name: int(text(machine, f"{directory}/{name}"))
                for name in QUOTA_FILES
                if machine.sysfs.exists(f"{directory}/{name}")
            }
            if values:
                found[(_vf_in(directory), directory.rpartition("/")[2])] = values
    return found


def set_quotas(machine: gpusim.Machine, address: str) -> dict[tuple[int, str], dict[str, int]]:
    """The quotas that are set."""
    return {
        place: {name: value for name, value in values.items() if value}
        for place, values in quotas(machine, address).items()
        if any(values.values())
    }


def assert_profile(machine: gpusim.Machine, address: str, name: str, *, ecc_on: bool = False) -> None:
    """All VFs of a table profile are there, each with what the table says on each tile, and no others."""
    device = int(text(machine, f"{pf(address)}/device"), 16)
    table: ProfileTable = TABLES.profiles
    (profile,) = (known for known in table.of(device) if known.name == name)
    quota = profile.quota
    assert quota is not None
    seen = quotas(machine, address)
    tiles = len({place for vf, place in seen if vf == 0})
    assert num_vfs(machine, address) == profile.count
    wanted = {
        "contexts_quota": quota.contexts,
        "doorbells_quota": quota.doorbells // tiles,
        "ggtt_quota": quota.ggtt // tiles,
        "lmem_quota": quota.lmem_ecc_on if ecc_on else quota.lmem,
        "exec_quantum_ms": quota.exec_quantum_ms,
        "preempt_timeout_us": quota.preempt_timeout_us,
    }
    rounding = {"lmem_quota": 2 * 1024 * 1024, "ggtt_quota": 2 * 1024 * 1024}
    for (vf, place), values in seen.items():
        for file, value in values.items():
            want = wanted[file] if vf < profile.count else 0
            slack = rounding.get(file, 1) if want else 1
            assert want <= value < want + slack, f"VF {vf} {place}/{file} is {value}, not {want}"
    assert automatic(machine, address) in (None, "0")


def assert_plain(machine: gpusim.Machine, gpu: gpusim.GpuSpec) -> None:
    """A GPU is as it was after boot; one that had no driver may have got its own."""
    address = gpu.address
    assert num_vfs(machine, address) == 0, f"{address} has VFs"
    assert set_quotas(machine, address) == {}, f"{address} has quotas"
    assert automatic(machine, address) in (None, "1"), f"{address} does not provision by itself"
    found = driver(machine, address)
    assert found == gpu.boot_driver or (gpu.boot_driver is None and found in ("i915", "xe")), f"{address}: {found}"
    assert override(machine, address) == "(null)", f"{address}: {override(machine, address)}"


def assert_pristine(bench: Bench) -> None:
    """Nothing of ours is left: not on the hardware, not in the CDI directory, not on record."""
    for gpu in bench.machine.spec.gpus:
        assert_plain(bench.machine, gpu)
    assert sorted(path.name for path in bench.cdi.iterdir()) == []
    record = bench.ownership()
    assert (record.layouts, record.bindings, record.applied) == ({}, {}, {})
    leftovers = [path.name for path in Path(bench.roots.state).iterdir() if path.name.startswith(".")]
    assert leftovers == []


def assert_sound(bench: Bench) -> None:
    """The CDI directory keeps all rules."""
    assert broken_rules(bench.cdi) == []


def _vf_in(directory: str) -> int:
    (number,) = (int(part[2:]) for part in directory.split("/") if fnmatch.fnmatchcase(part, "vf[0-9]*"))
    return number - 1


def _glob(machine: gpusim.Machine, pattern: str) -> list[str]:
    """Directories and files that match, links followed; in order."""
    found = [""]
    for part in pattern.split("/"):
        below = []
        for path in found:
            if "*" not in part:
                below.append(f"{path}/{part}".lstrip("/"))
            elif machine.sysfs.isdir(path):
                names = sorted(machine.sysfs.listdir(path), key=lambda name: (len(name), name))
                below += [f"{path}/{name}" for name in names if fnmatch.fnmatchcase(name, part)]
        found = [path for path in below if machine.sysfs.exists(path)]
    return found
