"""Marks that may have been forgotten: the kubelet of Kubernetes 1.26 keeps no record of what it has prepared.

When it is restarted it gives claims back only of pods whose containers it makes anew. The mark of any other claim
would keep its devices for good, so it is released once nothing speaks for the claim any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from state.observed import Unreadable
from state.records import Mark

FORGETFUL = "v1alpha1"
"""The kubelet's service of 1.26, as marks name it. Later kubelets keep what they prepared in a file."""

PATIENCE = timedelta(minutes=5)
"""How long a claim is gone before its mark is stale. A pod that is deleted may take its time to end, and the
kubelet then gives its claims back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """Marks of claims that are wanted no more, and since when, by claim UID: ``stale`` are those to release.

    Only the time counts in which the kubelet could have given a claim back.
    """

    since: Mapping[str, datetime]
    stale: frozenset[str]

    def next_stale(self) -> datetime | None:
        """When the next mark gets stale, if there is one to get so."""
        return min((self.since[uid] + PATIENCE for uid in self.since.keys() - self.stale), default=None)


def may_be_forgotten(marks: Mapping[str, Mark] | Unreadable) -> bool:
    """Whether there is a mark that a kubelet may forget."""
    return not isinstance(marks, Unreadable) and any(mark.grpc_version == FORGETFUL for mark in marks.values())


def abandoned(
    marks: Mapping[str, Mark],
    wanted: Set[str],
    since: Mapping[str, datetime],
    released: Mapping[str, str],
    now: datetime,
    *,
    registered: bool,
) -> Abandoned:
    """Judge ``marks``, of which ``wanted`` are of claims in the manifest.

    ``since`` is what was found before; without it (after a restart) time counts anew. ``released`` are the nonces
    released already: such a mark stays stale until it is deleted. ``registered``: the kubelet knows the plugin.
    """
    gone = {
        uid: since.get(uid, now)
        for uid, mark in sorted(marks.items())
        if registered and mark.grpc_version == FORGETFUL and uid not in wanted
    }
    stale = (uid for uid in gone if gone[uid] + PATIENCE <= now or released.get(uid) == marks[uid].nonce)
    return Abandoned(since=gone, stale=frozenset(stale))
