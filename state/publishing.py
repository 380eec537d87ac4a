"""What of a node's status goes to the API server, and when.

There is at most one write a second, and none while nothing has changed. Times of the last look are not part of the
status, so a node at rest writes nothing at all.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from state.status import NodeStatus, escaped

MOST_OFTEN = timedelta(seconds=1)
"""Between two writes, unless an entry changes its phase."""


def status_for(status: NodeStatus, seen_uid: str | None, live_uid: str) -> NodeStatus:
    """The status as it may be written to the object ``live_uid``.

    A generation counts for one object only. While the machine still follows another one's manifest
    (``seen_uid``), none is observed.
    """
    if seen_uid == live_uid:
        return status
    conditions = tuple(
        msgspec.structs.replace(condition, observed_generation=None) for condition in status.conditions
    )
    return msgspec.structs.replace(status, observed_generation=None, conditions=conditions)


def as_json(status: NodeStatus) -> dict[str, object]:
    """The status as the API server will have it. Names that are no UTF-8 are shown escaped."""
    plain = escaped(msgspec.to_builtins(status, order="deterministic"))
    assert isinstance(plain, dict)
    return plain


def is_urgent(last: NodeStatus | None, now: NodeStatus) -> bool:
    """Whether somebody waits for this: an allocation came, went, or changed its phase."""
    return last is None or _phases(last) != _phases(now) or last.withdrawn != now.withdrawn


def _phases(status: NodeStatus) -> dict[tuple[str, str], str]:
    return {(one.origin, one.name): one.phase for one in status.allocations}
