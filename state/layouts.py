"""Which VF layout a GPU has, as far as the machine shows it."""

from __future__ import annotations

from state.observed import FunctionSeen, PfSeen, ProvisioningSeen, SriovSeen
from state.profiles import Ecc, Profile, ProfileTable, fair_share, satisfies, tile_quota


def has_layout(gpu: PfSeen, profile: Profile) -> bool:
    """Whether exactly the VFs of ``profile`` are there, all of them, with its quotas."""
    return is_enabled_as(gpu, profile) and isinstance(gpu.sriov, SriovSeen) and len(gpu.sriov.vfs) == profile.count


def is_enabled_as(gpu: PfSeen, profile: Profile) -> bool:
    """Whether the VFs of ``profile`` were enabled; single ones may have fallen off the bus since."""
    return isinstance(gpu.sriov, SriovSeen) and gpu.sriov.enabled == profile.count and is_provisioned(gpu, profile)


def is_provisioned(gpu: PfSeen, profile: Profile) -> bool:
    """Whether VFs enabled now would be, or are, those of ``profile``.

    A fair share needs the driver to provision by itself. Where a driver has no switch for that and releases
    everything on disabling (xe), it does as long as no VF has a quota before enabling.
    """
    sriov = gpu.sriov
    provisioning = sriov.provisioning if isinstance(sriov, SriovSeen) else None
    if not isinstance(sriov, SriovSeen) or provisioning is None:
        return profile.quota is None
    if profile.quota is None:
        return _is_automatic(provisioning, enabled=sriov.enabled > 0)
    # VFs that are there may have been made when ECC was judged otherwise; both figures are the profile's.
    either = (gpu.ecc, Ecc.ON, Ecc.OFF) if sriov.enabled else (gpu.ecc,)
    return any(_has_quotas_of(provisioning, profile, ecc) for ecc in dict.fromkeys(either))


def _has_quotas_of(provisioning: ProvisioningSeen, profile: Profile, ecc: Ecc) -> bool:
    if profile.quota is None or len(provisioning.quotas) < profile.count:
        return False
    wanted = tile_quota(profile.quota, tiles=provisioning.tiles, ecc=ecc)
    return all(satisfies(tile, wanted) for vf in provisioning.quotas[: profile.count] for tile in vf)


def _is_automatic(provisioning: ProvisioningSeen, *, enabled: bool) -> bool:
    if provisioning.automatic is not None:
        return provisioning.automatic
    return enabled or not has_quotas(provisioning)


def has_quotas(provisioning: ProvisioningSeen) -> bool:
    """Whether any VF has a quota set by hand."""
    return any(not tile.is_empty() for vf in provisioning.quotas for tile in vf)


def layout_of(gpu: PfSeen, table: ProfileTable) -> Profile | None:
    """The profile whose VFs are there now; None when there are none or they follow no profile."""
    sriov = gpu.sriov
    if not isinstance(sriov, SriovSeen) or sriov.enabled == 0:
        return None
    for profile in (*table.of(gpu.device_id), fair_share(sriov.enabled)):
        if is_enabled_as(gpu, profile):
            return profile
    return None


def function_of(gpu: PfSeen, vf: int) -> FunctionSeen | None:
    """The PCI function of a slot: the GPU's own for -1, else that VF's, None while it doesn't exist."""
    if vf < 0:
        return gpu.function
    if not isinstance(gpu.sriov, SriovSeen):
        return None
    vfs = gpu.sriov.vfs
    if vf < len(vfs) and vfs[vf].index == vf:  # almost always: they come in order and without gaps
        return vfs[vf].function
    return next((seen.function for seen in vfs if seen.index == vf), None)
