"""Taking GPUs out of what schedulers are offered, before people's wishes change them.

The node can't list claims, so only the controller can say that nobody has just been allocated a GPU which a person
wants for something else. The node makes a token for each such GPU and shows it in its status, the publisher taints
the GPU's devices, and the controller answers with the same token once its list of claims is newer than that; what
it found is in the manifest by then. Until that answer the GPU stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from state.desired import Desired, Origin
from state.ids import DeviceName
from state.manifest import OverrideMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawals:
    """Tokens of withdrawals that have ``begun``, those the controller ``confirmed``, and a digest of what people
    want of each GPU, all by GPU name. Not ``needed`` outside a cluster: nothing is published there.

    A token ends in the digest of the wish it was made for. An answer to one wish says nothing about the next: what
    was offered meanwhile may be another thing.
    """

    needed: bool
    begun: Mapping[str, str] = field(default_factory=dict)
    confirmed: Mapping[str, str] = field(default_factory=dict)
    wishes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, desired: Desired, begun: Mapping[str, str], *, needed: bool) -> Withdrawals:
        """The withdrawals for what is desired."""
        wishes = {pf: _digest(words) for pf, words in _wishes(desired).items()} if needed else {}
        return cls(needed=needed, begun=begun, confirmed=desired.withdrawals_confirmed, wishes=wishes)

    def objection(self, pf: DeviceName) -> str | None:
        """Why a GPU may not be given to people yet, or None."""
        if not self.needed or (self._has_begun(pf) and self.confirmed.get(pf) == self.begun[pf]):
            return None
        return f"waits for the controller to confirm that {pf} was not allocated to a claim meanwhile"

    def after(
        self, rejected: Iterable[DeviceName], present: Iterable[str], boot_id: str, now: datetime
    ) -> dict[str, str]:
        """The tokens as they are to be recorded: those of unchanged wishes stay, so that an answer still counts.

        A GPU in ``rejected`` is used by claims that a person's wish has to wait for: schedulers get it back, and
        the next withdrawal will have another token.
        """
        fresh = f"{now:%Y%m%dT%H%M%S.%fZ}-{boot_id[:8]}"
        kept = set(present) - set(rejected)
        return {
            pf: self.begun[pf] if self._has_begun(pf) else f"{fresh}-{self.wishes[pf]}"
            for pf in sorted(self.wishes.keys() & kept)
        }

    def _has_begun(self, pf: str) -> bool:
        return pf in self.wishes and self.begun.get(pf, "").endswith(f"-{self.wishes[pf]}")


def _wishes(desired: Desired) -> dict[str, set[str]]:
    """What people want of GPUs that schedulers may not be offered therefore, in words."""
    wishes: dict[str, set[str]] = {}
    for pf, override in desired.overrides.items():
        if override.mode is not OverrideMode.MANAGED or override.driver is not None:
            layout = "" if override.profile is None else override.profile.name
            wishes.setdefault(pf, set()).add(f"{override.mode.value} {layout} {override.driver}")
    for entry in desired.entries:
        for device in entry.devices if entry.origin is Origin.MANUAL else ():
            if not device.monitors:
                wishes.setdefault(device.logical.pf, set()).add(f"{device.record.device} {device.driver}")
    return wishes


def _digest(wish: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(wish)).encode()).hexdigest()[:8]
