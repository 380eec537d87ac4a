"""Taking GPUs out of what schedulers are offered, before people's wishes change them.

The node can't list claims, so only the controller can say that nobody has just been allocated a GPU which a person
wants for something else. The node makes a token for each such GPU and shows it in its status, the publisher taints
the GPU's devices, and the controller answers with the same token once its list of claims is newer than that; what
it found is in the manifest by then. Until that answer the GPU stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from state.desired import Desired, Entry, Origin
from state.ids import DeviceName
from state.manifest import OverrideMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawals:
    """Tokens of withdrawals that have begun, and those the controller ``confirmed``, both by GPU name.

    Not ``needed`` outside a cluster: nothing is published there.
    """

    needed: bool
    begun: Mapping[str, str] = field(default_factory=dict)
    confirmed: Mapping[str, str] = field(default_factory=dict)

    def objection(self, pf: DeviceName) -> str | None:
        """Why a GPU may not be given to people yet, or None."""
        token = self.begun.get(pf)
        if not self.needed or (token is not None and self.confirmed.get(pf) == token):
            return None
        return f"waits for the controller to confirm that {pf} was not allocated to a claim meanwhile"

    def after(
        self, desired: Desired, rejected: Iterable[DeviceName], present: Iterable[str], boot_id: str, now: datetime
    ) -> dict[str, str]:
        """The tokens as they are to be recorded: old ones stay, so that an answer to them still counts.

        A GPU in ``rejected`` is used by claims that a person's wish has to wait for: schedulers get it back, and
        the next withdrawal will have another token.
        """
        if not self.needed:
            return {}
        fresh = f"{now:%Y%m%dT%H%M%S.%fZ}-{boot_id[:8]}"
        wished = (_wished_by_people(desired) - set(rejected)) & set(present)
        return {pf: self.begun.get(pf, fresh) for pf in sorted(wished)}


def _wished_by_people(desired: Desired) -> set[str]:
    """GPUs that schedulers may not be offered, because a person has other plans with them."""
    overridden = {
        pf
        for pf, override in desired.overrides.items()
        if override.mode is not OverrideMode.MANAGED or override.driver is not None
    }
    manual = (entry for entry in desired.entries if entry.origin is Origin.MANUAL)
    return overridden.union(*(_taken_by(entry) for entry in manual))


def _taken_by(entry: Entry) -> set[str]:
    return {device.logical.pf for device in entry.devices if not device.monitors}
