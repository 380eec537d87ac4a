"""From a claim's allocation to Ready on its node, and through Prepare: what each hop takes.

The API server is a process without scheduler or kubelet; whoever measures allocates the claims himself, and asks
the plugin as a kubelet would, over its socket. Controller, node agent and plugin are the real ones.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import msgspec

from hack.bench import objects
from hack.bench.figures import Figure, milliseconds
from hack.bench.kubelet import PREPARE_P99_BUDGET_MS, Call
from hack.bench.staff import NODE, PATIENCE, Staff
from hack.bench.timeline import Timeline, followed
from reconciler.node.roots import Roots
from reconciler.node.status_file import read_status
from reconciler.runtime.files import FileRefused
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.watching import FileWatcher, Interest
from state.status import StatusError

READY_BUDGET_MS, READY_P99_BUDGET_MS = 15.0, 60.0

_HOPS = (
    ("allocation written → its event", "allocated", "event"),
    ("event → entry in the spec (controller)", "event", "entry"),
    ("entry → desired-state file (mirror)", "entry", "file"),
    ("file → CDI spec (a pass)", "file", "cdi"),
    ("CDI spec → status file says Ready (next pass)", "cdi", "ready"),
    ("status file → status of the object (publisher)", "ready", "published"),
)
_QUIET_SECONDS = 0.1


def figures(staff: Staff, device: str, *, what: str, times: int) -> Iterator[Figure]:
    """The hops for a whole GPU that needs no change, one claim after the other."""
    staff.start_cluster(actors=False)
    staff.start_controller()
    staff.start_agent()
    staff.start_plugin()
    staff.until_plugin_serves()
    timeline = Timeline()
    client = staff.client()
    with contextlib.ExitStack() as closing:
        closing.callback(client.close)
        for path, facts in (
            (objects.claims_path("default"), objects.facts_of_claim),
            (objects.NODE_STATES, objects.facts_of_node_state),
        ):
            closing.enter_context(followed(client, path, timeline, facts))
        closing.enter_context(_files(staff.roots, timeline))
        channel = closing.enter_context(
            grpc.insecure_channel(f"unix:{staff.places.plugin_dir(objects.DRIVER) / 'dra.sock'}")
        )
        run = _Run(client, timeline, Call(channel), device)
        rounds = [run.once(f"claim-{number:04}") for number in range(times + 3)][3:]
    yield from _as_figures(rounds, what)


def _as_figures(rounds: list[dict[str, float]], what: str) -> Iterator[Figure]:
    def between(first: str, last: str) -> list[float]:
        return [one[last] - one[first] for one in rounds]

    yield milliseconds(
        f"allocation seen → Ready, {what}",
        between("event", "ready"),
        budget=READY_BUDGET_MS,
        budget_p99=READY_P99_BUDGET_MS,
    )
    whole = statistics.median(between("allocated", "published"))
    for name, first, last in _HOPS:
        share = 100 * statistics.median(between(first, last)) / whole
        yield milliseconds(f"  {name}", between(first, last), note=f"{share:.0f} % of all")
    yield milliseconds(f"Prepare when Ready, whole chain, {what}", [one["prepare"] for one in rounds])
    yield milliseconds("  asked → mark confirmed in the status file", between("asked", "echoed"))
    yield milliseconds(
        "  asked again (already marked)",
        [one["again"] for one in rounds],
        budget_p99=PREPARE_P99_BUDGET_MS,
    )
    yield milliseconds("  Unprepare", [one["unprepare"] for one in rounds])


class _Run:
    """Claims of one GPU, each allocated, prepared, given back and deleted."""

    def __init__(self, client: KubeClient, timeline: Timeline, call: Call, device: str) -> None:
        self._client, self._timeline, self._call, self._device = client, timeline, call, device

    def once(self, name: str) -> dict[str, float]:
        """When each hop was done, and how long the calls took, in seconds."""
        path = objects.claims_path("default")
        body = objects.claim(name, objects.claim_spec("gpu.intel.com"))
        uid = msgspec.json.decode(self._client.create(path, body))["metadata"]["uid"]
        allocated = time.perf_counter()
        self._client.merge_patch(f"{path}/{name}/status", objects.allocation(NODE, self._device))
        sights = {
            "event": (f"claim {name}", "allocated"),
            "entry": (f"spec {NODE}", uid),
            "file": ("file", uid),
            "cdi": ("cdi", uid),
            "ready": ("status file", f"{uid} Ready"),
            "published": (f"status {NODE}", f"{uid} Ready"),
        }
        self._timeline.until(sights.values(), PATIENCE)
        took = {hop: self._timeline.since(*fact) for hop, fact in sights.items()}
        time.sleep(_QUIET_SECONDS)  # a kubelet does not ask in the very millisecond
        took |= {
            "allocated": allocated,
            "asked": time.perf_counter(),
            "prepare": self._call.prepare(uid),
            "echoed": self._timeline.until([("status file", f"{uid} in use")], PATIENCE)[0],
            "again": self._call.prepare(uid),
            "unprepare": self._call.unprepare(uid),
        }
        self._client.delete(f"{path}/{name}")
        self._timeline.until_not([*sights.values(), ("status file", uid), (f"status {NODE}", uid)], PATIENCE)
        time.sleep(_QUIET_SECONDS)
        return took


@contextlib.contextmanager
def _files(roots: Roots, timeline: Timeline) -> Iterator[None]:
    """Tell of the node's files: which claims the desired state has, the CDI specs, the status's phases."""
    tellers: list[tuple[str, str | None, Callable[[], None]]] = [
        (roots.desired_file, None, lambda: _tell(timeline, "file", lambda: _desired(roots))),
        (roots.cdi, "*", lambda: _tell(timeline, "cdi", lambda: _cdi(roots))),
        (roots.status_file, None, lambda: _tell(timeline, "status file", lambda: _status(roots))),
    ]
    interests = tuple(
        Interest(
            directory=Path(path) if names else Path(path).parent,
            names=None if names else frozenset({Path(path).name}),
            wake=teller,
        )
        for path, names, teller in tellers
    )
    watcher = FileWatcher(interests)
    try:
        watcher.check()
        for interest in interests:
            interest.wake()
        yield
    finally:
        watcher.stop()


def _tell(timeline: Timeline, thing: str, look: Callable[[], list[str]]) -> None:
    at = time.perf_counter()
    timeline.tell({thing: look()}, at)


def _desired(roots: Roots) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        manifest = msgspec.json.decode(Path(roots.desired_file).read_bytes())
        return [one["name"] for one in manifest["spec"].get("allocations", ())]
    return []


def _cdi(roots: Roots) -> list[str]:
    prefix = "intel.com-gpu_claim-"
    return [path.stem.removeprefix(prefix) for path in Path(roots.cdi).glob(f"{prefix}*.json")]


def _status(roots: Roots) -> list[str]:
    with contextlib.suppress(FileNotFoundError, FileRefused, StatusError):
        file = read_status(Path(roots.status_file))
        entries = file.status.allocations
        phases = [f"{one.name} {one.phase}" for one in entries]
        return [one.name for one in entries] + phases + [f"{uid} in use" for uid in file.nonces]
    return []
