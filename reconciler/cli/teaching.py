"""What ``--help`` says of each command: what it does, its exit codes, and an example."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from reconciler.cli.locations import LOCATIONS
from reconciler.cli.options import Format

EVERY_FORMAT = (Format.TABLE, Format.WIDE, Format.YAML, Format.JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One command for those who learn it. ``formats`` are what -o takes there, the first being the default.

    ``places`` are the fields of ``Location`` that matter to it.
    """

    summary: str
    about: str
    exits: tuple[tuple[int, str], ...]
    example: tuple[str, ...]
    formats: tuple[Format, ...] = EVERY_FORMAT
    usage: str = "[options]"
    places: tuple[str, ...] = tuple(location.field for location in LOCATIONS)


_FAILED = (1, "an error; one line on stderr says what and why")

LESSONS = {
    "discover": Lesson(
        summary="list the GPUs of this machine",
        about="Lists every Intel GPU with its model, driver, memory, virtual functions and health. Changes "
        "nothing.",
        exits=((0, "also when there is no GPU, which is said on stderr"), _FAILED),
        example=("gpu-reconciler discover -o wide",),
    ),
    "export": Lesson(
        summary="write what is there now as a desired-state file",
        about="Writes the machine as it is as a desired-state file. Applying that file changes nothing.",
        exits=((0, "written to stdout"), _FAILED),
        example=("gpu-reconciler export > node.yaml",),
        formats=(Format.YAML, Format.JSON),
    ),
    "plan": Lesson(
        summary="show what apply would do, and why",
        about="Shows for each GPU what would be done to it and why, and what has to wait and why. Changes "
        "nothing.",
        usage="-f FILE [options]",
        exits=(
            (0, "nothing to do: the machine is as wanted"),
            (2, "there would be changes, or some wait"),
            _FAILED,
        ),
        example=("gpu-reconciler plan -f node.yaml", "gpu-reconciler export | gpu-reconciler plan -f -"),
    ),
    "apply": Lesson(
        summary="make the machine as wanted, once",
        about="Changes the machine until it is as the file wants it, or nothing more can be done now. "
        "Devices in use are never disturbed. Needs root, and that no daemon is at work here.",
        usage="-f FILE [options]",
        exits=((0, "the machine is as wanted"), (2, "not all of it: what waits, and why, is listed"), _FAILED),
        example=("gpu-reconciler apply -f node.yaml --timeout 120",),
    ),
    "assert": Lesson(
        summary="check that the machine is as wanted",
        about="Compares the machine with the file and lists what differs. Changes nothing.",
        usage="-f FILE [options]",
        exits=((0, "the machine is as wanted"), (2, "it is not; the differences are listed"), _FAILED),
        example=("gpu-reconciler assert -f node.yaml || gpu-reconciler apply -f node.yaml",),
    ),
    "run": Lesson(
        summary="keep the machine as wanted (daemon)",
        about="Keeps the machine as the file wants it: looks again when the file changes, when the kernel "
        "announces something, and now and then. Ends at SIGTERM; allocations stay as they are.",
        usage="-f FILE [options]",
        exits=((0, "ended as told"), (1, "could not start, or broke down; stderr says why")),
        example=("gpu-reconciler run -f /etc/gpu-reconciler/node.yaml --log-format json",),
        formats=(),
    ),
    "node": Lesson(
        summary="keep a cluster's node as wanted (daemon)",
        about="Keeps this machine as its GpuNodeState wants it, as run does with a file: mirrors the object "
        "into the state directory, follows that, and publishes the node's status. Goes on while the API server "
        "is away. Ends at SIGTERM; allocations stay as they are.",
        usage="--node-name NAME [options]",
        exits=((0, "ended as told"), (1, "could not start, or broke down; stderr says why")),
        example=("gpu-reconciler node --node-name node-a --kubeconfig ~/.kube/config",),
        formats=(),
    ),
    "controller": Lesson(
        summary="give a cluster's claims to its nodes (daemon)",
        about="Writes what ResourceClaims were allocated into the GpuNodeStates of their nodes, and numbers the "
        "virtual functions. In Kubernetes 1.26 to 1.30 it also finds the GPUs for them, as the scheduler does "
        "later. Any number of replicas may run; a Lease lets one do the work while it can. Needs no GPU. "
        "Ends at SIGTERM; what was written stays.",
        usage="[options]",
        exits=((0, "ended as told"), (1, "could not start, or broke down; stderr says why")),
        example=("gpu-reconciler controller --kubeconfig ~/.kube/config --probes-listen 8081",),
        formats=(),
        places=(),
    ),
    "plugin": Lesson(
        summary="serve the kubelet of a cluster's node (daemon)",
        about="Registers with the kubelet and answers it: marks what pods use and waits until the node's agent "
        "has it ready. Needs no access to the cluster. Registers once the agent has written its status and what "
        "the API server is like. Ends at SIGTERM, after calls under way.",
        usage="--node-name NAME [options]",
        exits=((0, "ended as told"), (1, "could not start, or broke down; stderr says why")),
        example=("gpu-reconciler plugin --node-name node-a",),
        formats=(),
        places=("procfs", "run"),
    ),
    "status": Lesson(
        summary="show what the agent last said",
        about="Shows conditions, GPUs, allocations and what waits, from the agent's status file. Says so "
        "when that is older than 30 s or from another boot.",
        exits=((0, "shown"), _FAILED),
        example=("gpu-reconciler status -o json",),
    ),
    "explain": Lesson(
        summary="tell all about one GPU, claim or allocation",
        about="Tells all about one GPU (name or PCI address) or one allocation (name, claim UID or "
        "NAMESPACE/CLAIM): how it is, what it waits for, what would help. From the agent's status "
        "file, or with -f from a fresh look at the machine and that file.",
        usage="DEVICE|CLAIM|ALLOCATION [-f FILE] [options]",
        exits=((0, "explained"), _FAILED),
        example=("gpu-reconciler explain 0000-03-00-0-0x56c0", "gpu-reconciler explain jupyter -f node.yaml"),
    ),
}


def epilog(lesson: Lesson) -> str:
    """Exit codes, environment and examples, as they stand below the options."""
    exits = "\n".join(f"  {code}  {meaning}" for code, meaning in lesson.exits)
    examples = "\n".join(f"  {line}" for line in lesson.example)
    return f"exit codes:\n{exits}\n\n{environment_help(lesson.places)}\n\nexamples:\n{examples}"


def environment_help(places: tuple[str, ...]) -> str:
    """The environment variables; flags win over them."""
    shown = [location for location in LOCATIONS if location.field in places]
    words = f"{', '.join(location.variable for location in shown)} as named above; flags win."
    if any(location.proof for location in shown):
        words += " SYSFS_ROOT and DEVFS_ROOT are honoured only if bus/pci/devices, or dri or vfio, is found there."
    lines = [textwrap.fill(words, 79, initial_indent="  ", subsequent_indent="  ")] if shown else []
    return "\n".join(("environment:", *lines, "  NO_COLOR, if not empty: no colours."))
