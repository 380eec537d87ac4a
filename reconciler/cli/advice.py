"""What would help an allocation that waits."""

from __future__ import annotations

from state.outcomes import Phase
from state.status import AllocationStatus


def advice(allocation: AllocationStatus) -> str:
    """One sentence; empty when nothing is needed."""
    if "--force-release" in allocation.message:
        return "make sure that nobody uses it any more, then start again with the --force-release it names"
    match Phase(allocation.phase):
        case Phase.READY:
            return ""
        case Phase.CONVERGING:
            return "nothing: it is under way (a daemon finishes it by itself; apply does when called)"
        case Phase.PENDING:
            return "set spec.paused to false in the desired state"
        case Phase.BLOCKED:
            return "end or take back what it waits for, or ask for another device; it goes on by itself then"
        case Phase.FAILED:
            return "it is tried again by itself; the kernel's log (dmesg) may tell more"
        case Phase.REFUSED:
            return "correct the desired state at the place named: waiting won't help"
        case Phase.RELEASING:
            return "stop what uses its devices; the rest happens by itself"
