"""What the API server checks of a GpuNodeState beyond its types: rules, list keys and bounds.

What the node would refuse without looking at its hardware is refused here, when a person writes it. Rules use what
API servers from 1.26 on have: ``rule`` and ``message`` only, hence messages that name the field. A rule's cost, as
the server estimates it from maxLength and maxItems, must stay below its limits; so lists of people have bounds.

There is no rule for adoptedUID: an object made again from a backup has another uid, which rules can't see, and the
controller then adopts it anew.
"""

from collections.abc import Mapping

from hack.crdgen.schema import Schema
from state.ids import LOGICAL_NAME_FORMS
from state.manifest import (
    ClaimAllocation,
    ManualAllocation,
    ManualDevice,
    Override,
    Policy,
    Spec,
    VirtualFunctions,
)

MOST_OVERRIDES = 128
MOST_MANUAL_ALLOCATIONS = 512
MOST_RELEASES = 1024
MOST_ALLOCATIONS = 4096
MOST_PROFILES = 64
LONGEST_DEVICE_NAME = len("01234567-89-ab-c-0xdef0-mode1234-vf1234")
LONGEST_NAME = 63
"""Of other names: longer than any can be, so that it is the rule that speaks of a wrong one."""
LONGEST_REASON = 1024

QUANTITY = r"^([1-9][0-9]{0,17}|[1-9][0-9]{0,8}([kMG]|[KMG]i)|[1-9][0-9]{0,5}Ti?|[0-9]{1,6}\.(25|5|75)[KMGT]i)$"
"""Of the quantities that ``parse_quantity`` takes, those that are sure to be a whole number of bytes."""

DEFAULTED = frozenset([Spec, Override, ManualDevice])
"""What people write shows its defaults; what the controller writes stays small."""


def rules(*told: tuple[str, str]) -> Schema:
    """CEL rules, each with the message for those who break it."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in told]}


def keyed(by: str, most: int) -> Schema:
    """A list of objects of which each has another ``by``, so that writers can share it."""
    return {"maxItems": most, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [by]}


_GPU = rules(
    (
        "self.matches('^[0-9a-f]{4,8}-[0-9a-f]{2}-[01][0-9a-f]-[0-7]-0x[0-9a-f]{4}$')",
        "is no name of a GPU, such as 0000-b3-00-0-0x56c0 (status.devices lists them)",
    ),
)
_PROFILE = rules(
    (
        "self.matches('^([a-z0-9]+_)*[a-z]{1,4}[1-9][0-9]{0,3}$')",
        "is no VF layout: a profile of the model's table (flex170_m4), its mode (m4), or fs<n> for n equal shares",
    ),
)
_OVERRIDE = rules(
    ("!has(self.virtualFunctions) || self.mode == 'Fixed'", "virtualFunctions needs mode Fixed"),
    (
        "!has(self.virtualFunctions) || !has(self.kernelDriver) || !(self.kernelDriver in ['vfio', 'xe-vfio'])",
        "kernelDriver vfio or xe-vfio takes the whole GPU, which then cannot have virtualFunctions",
    ),
)
_DEVICE = rules(
    (
        "self.matches('^[0-9a-f-]+-0x[0-9a-f]{4}(-.+)?$')",
        f"is no device name (forms: {', '.join(LOGICAL_NAME_FORMS)}; <gpu> as in 0000-b3-00-0-0x56c0)",
    ),
    (
        "!self.matches('-0x[0-9a-f]{4}-[a-z]+[0-9]+$')",
        "does not say which VF: <gpu>-<mode>-vf<index>, index from 0",
    ),
)
_MANUAL_DEVICE = rules(
    ("self.adminAccess || !self.device.endsWith('-monitor')", "a monitor device needs adminAccess: true"),
    (
        "self.kernelDriver == 'drm' || !(self.device.endsWith('-shared') || self.device.endsWith('-monitor'))",
        "a shared or monitor device can't be passed through: its kernelDriver is drm",
    ),
)
_MANUAL_NAME = rules(
    (
        "!self.startsWith('claim-') && !self.startsWith('alloc-')",
        "names beginning with 'claim-' or 'alloc-' are CDI device names of ours",
    ),
)
_CLAIM = rules(
    (
        "!has(self.refused) || !has(self.devices) || size(self.devices) == 0",
        "a claim is refused or has devices, not both",
    ),
)
_RELEASE = rules(
    (
        "self.matches('^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')",
        "is no UID of a claim (kubectl get resourceclaim NAME -o jsonpath={.metadata.uid})",
    ),
)

_ADDED: Mapping[tuple[type, str], Schema] = {
    (Spec, "overrides"): keyed("device", MOST_OVERRIDES),
    (Spec, "manualAllocations"): keyed("name", MOST_MANUAL_ALLOCATIONS),
    (Spec, "releases"): {
        "maxItems": MOST_RELEASES,
        "x-kubernetes-list-type": "set",
        "items": {"maxLength": LONGEST_NAME, **_RELEASE},
    },
    (Spec, "allocations"): keyed("name", MOST_ALLOCATIONS),
    (Policy, "profiles"): {"maxItems": MOST_PROFILES, "items": {"maxLength": LONGEST_NAME, **_PROFILE}},
    (Override, ""): _OVERRIDE,
    (Override, "device"): {"maxLength": LONGEST_NAME, **_GPU},
    (Override, "reason"): {"maxLength": LONGEST_REASON},
    (VirtualFunctions, "profile"): {"maxLength": LONGEST_NAME, **_PROFILE},
    (ManualAllocation, "name"): _MANUAL_NAME,
    # The key makes the server refuse a device that is listed twice.
    (ManualAllocation, "devices"): keyed("device", 64),
    (ManualDevice, ""): _MANUAL_DEVICE,
    (ManualDevice, "device"): {"maxLength": LONGEST_DEVICE_NAME, **_DEVICE},
    (ManualDevice, "memory"): {
        "type": None,
        "format": None,
        "x-kubernetes-int-or-string": True,
        "pattern": QUANTITY,
    },
    (ClaimAllocation, ""): _CLAIM,
}


def added(owner: type, field: str) -> Schema:
    """What admission adds to the schema of ``owner`` (field "") or of one of its fields."""
    return _ADDED.get((owner, field), {})
