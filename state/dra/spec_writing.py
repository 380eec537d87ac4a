"""Writing the controller's part of a spec: all of it at once, and what needs no change as it came."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from state.dra.node_object import Entry, NodeObject
from state.dra.node_view import Refused, SpecWrite
from state.manifest import API_VERSION, KIND


def same_entry(before: Entry, after: Entry) -> bool:
    """Replicas may read claims in different API versions: that alone is no difference."""
    return before == msgspec.structs.replace(after, source=before.source)


def spec_write(
    state: NodeObject,
    wanted: Mapping[str, Entry],
    confirmed: Mapping[str, str],
    changes: tuple[str, ...],
) -> SpecWrite:
    """All entries to stand afterwards, by UID, and the confirmed withdrawals; ``changes`` is that in words."""
    there = {entry.name: (entry, raw) for entry, raw in state.entries}
    order = [*(uid for uid in there if uid in wanted), *sorted(uid for uid in wanted if uid not in there)]
    allocations: list[msgspec.Raw] = []
    refused: list[Refused] = []
    for uid in order:
        entry, before = wanted[uid], there.get(uid)
        unchanged = before is not None and same_entry(before[0], entry)
        allocations.append(before[1] if before and unchanged else msgspec.Raw(msgspec.json.encode(entry)))
        if entry.refused is not None and not unchanged:
            refused.append(Refused(uid=uid, ref=entry.ref, refusal=entry.refused))
    body = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": state.name, "uid": state.uid, "resourceVersion": state.resource_version},
        "spec": {
            "adoptedUID": state.uid,
            "allocations": allocations,
            "withdrawalsConfirmed": confirmed,
        },
    }
    return SpecWrite(
        body=msgspec.json.encode(body),
        names=frozenset(order),
        confirmed=confirmed,
        refused=tuple(refused),
        why=changes,
    )
