"""What would help an allocation that waits."""

from __future__ import annotations

from state.outcomes import Phase
from state.status import AllocationStatus


def advice(allocation: AllocationStatus) -> str:
    """One sentence; empty when nothing is needed."""
    if "--force-release" in allocation.message:
        return "make sure that nobody uses it any more, then start again with the --force-release it names"
    match allocation.phase:
        case Phase.READY.value:
            return ""
        case Phase.CONVERGING.value:
            return "nothing: it is under way (a daemon finishes it by itself; apply does when called)"
        case Phase.PENDING.value:
            return "set spec.paused to false in the desired state"
        case Phase.BLOCKED.value:
            return "end or take back what it waits for, or ask for another device; it goes on by itself then"
        case Phase.FAILED.value:
            return "it is tried again by itself; the kernel's log (dmesg) may tell more"
        case Phase.REFUSED.value:
            return "correct the desired state at the place named: waiting won't help"
        case Phase.RELEASING.value:
            return "stop what uses its devices; the rest happens by itself"
        case _:
            return ""  # a phase of a newer release
