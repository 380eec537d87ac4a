"""A stand-in for a scheduler: gives ResourceClaims GPUs that nodes report in their GpuNodeState.

It knows no ResourceSlices: it names devices as the driver's slices would, and sees to it that uses exclude each
other. A request's class says what is wanted: gpu.intel.com (a whole GPU), shared.gpu.intel.com (part of its
memory), vf.gpu.intel.com (a virtual function; `mode == "m4"` in a selector says of which size) or
monitor.gpu.intel.com. Claims are allocated as soon as they exist, first come, first served.
"""

import contextlib
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from kubesim.cluster import Cluster
from kubesim.messages import Request
from kubesim.refusals import Refusal
from kubesim.values import Object
from kubesim.watching import Dropped, Watch

DRIVER = "gpu.intel.com"
CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
NODE_STATES = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"

_MODE = re.compile(r'\bmode == "([a-z]+[0-9]+)"')
_EVERY = 0.02


@dataclass(slots=True)
class _Gpu:
    """What is left of a GPU. `mode` is how it is used: whole, shared, or a VF mode like m4."""

    node: str
    name: str
    vfs: int
    mode: str = ""
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    request: str
    kind: str
    mode: str
    admin: bool
    capacity: Object


@dataclass(slots=True)
class _Room:
    gpus: list[_Gpu] = field(default_factory=list)

    def take(self, wish: _Wish, node: str | None) -> tuple[_Gpu, str] | None:
        """A GPU for a wish and the device's name there, on one node if that is decided."""
        for gpu in self.gpus:
            if node in (None, gpu.node) and self._fits(gpu, wish):
                if wish.kind != "monitor":
                    gpu.mode, gpu.used = wish.mode, gpu.used + 1
                suffix = {"gpu": "", "vf": f"-{wish.mode}"}.get(wish.kind, f"-{wish.kind}")
                return gpu, f"{gpu.name}{suffix}"
        return None

    def _fits(self, gpu: _Gpu, wish: _Wish) -> bool:
        match wish.kind:
            case "monitor":
                return True
            case "shared":
                return gpu.mode in ("", "shared")
            case "vf":
                count = int(re.sub(r"\D", "", wish.mode))
                return count <= gpu.vfs and (gpu.mode == "" or (gpu.mode == wish.mode and gpu.used < count))
            case _:
                return gpu.mode == ""

    def occupy(self, node: str, device: str) -> None:
        """Something that a claim has already."""
        for gpu in self.gpus:
            if gpu.node == node and device.startswith(gpu.name):
                mode = device.removeprefix(gpu.name).removeprefix("-") or "whole"
                if mode != "monitor":
                    gpu.mode, gpu.used = mode, gpu.used + 1


class StandIn:
    """Allocates claims in a thread of its own, while its context lasts."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in scheduler", daemon=True)

    def __enter__(self) -> "StandIn":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            paths = (CLAIMS, NODE_STATES)
            watches = [self._cluster.watch(Request.to("GET", f"{path}?watch=true")) for path in paths]
            with contextlib.suppress(Dropped):
                self._follow(watches)
            for watch in watches:
                watch.close()

    def _follow(self, watches: list[Watch]) -> None:
        """Allocate whenever something changed. Raises Dropped."""
        while not self._stop.wait(_EVERY):
            heard = [watch.poll() for watch in watches]
            if any(lines for lines, _ in heard):
                self.allocate()
            if not all(more for _, more in heard):
                return

    def allocate(self) -> None:
        """Give what is free to claims that have nothing yet."""
        claims = sorted(self._list(CLAIMS), key=lambda claim: claim["metadata"]["creationTimestamp"])
        room = _Room([gpu for state in self._list(NODE_STATES) for gpu in _gpus_of(state)])
        for claim in claims:
            for result in _results(claim):
                room.occupy(result["pool"], result["device"])
        for claim in claims:
            if "allocation" not in claim.get("status", {}) and "deletionTimestamp" not in claim["metadata"]:
                self._allocate(claim, room)

    def _list(self, path: str) -> list[Object]:
        items: list[Object] = self._cluster.get(path)["items"]
        return items

    def _allocate(self, claim: Object, room: _Room) -> None:
        results, node = [], None
        for wish in _wishes(claim):
            found = room.take(wish, node)
            if found is None:
                return
            gpu, device = found
            node = gpu.node
            results.append(_result(wish, gpu, device))
        if node is None:
            return
        allocation = {"devices": {"results": results, "config": _config(claim)}, "nodeSelector": _only(node)}
        meta = claim["metadata"]
        path = f"/apis/resource.k8s.io/v1/namespaces/{meta['namespace']}/resourceclaims/{meta['name']}/status"
        try:
            self._cluster.merge(path, {"metadata": {"uid": meta["uid"]}, "status": {"allocation": allocation}})
        except Refusal as refusal:
            if refusal.code not in (404, 409):
                raise


def _gpus_of(state: Object) -> Iterator[_Gpu]:
    for device in state.get("status", {}).get("devices", ()):
        yield _Gpu(state["metadata"]["name"], device["name"], device.get("sriov", {}).get("total", 0))


def _results(claim: Object) -> list[Object]:
    found: list[Object] = claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
    return [result for result in found if result["driver"] == DRIVER]


def _wishes(claim: Object) -> Iterator[_Wish]:
    for request in claim["spec"].get("devices", {}).get("requests", ()):
        exactly = request.get("exactly") or request["firstAvailable"][0]
        name = exactly["deviceClassName"]
        kind = "gpu" if name in (DRIVER, f"gpu-vfio.{DRIVER}") else name.removesuffix(f".{DRIVER}")
        asked = _MODE.search(str(exactly.get("selectors", "")))
        mode = {"vf": asked[1] if asked else "fs1", "gpu": "whole"}.get(kind, kind)
        for _ in range(exactly.get("count", 1)):
            yield _Wish(
                request=request["name"],
                kind=kind,
                mode=mode,
                admin=exactly.get("adminAccess", False),
                capacity=exactly.get("capacity", {}).get("requests", {}),
            )


def _result(wish: _Wish, gpu: _Gpu, device: str) -> Object:
    result: Object = {"request": wish.request, "driver": DRIVER, "pool": gpu.node, "device": device}
    if wish.admin:
        result["adminAccess"] = True
    if wish.kind in ("vf", "shared"):
        result["shareID"] = str(uuid.uuid4())
        result["consumedCapacity"] = wish.capacity or {"millicores": "1"}
    return result


def _config(claim: Object) -> list[Object]:
    asked = claim["spec"].get("devices", {}).get("config", ())
    return [{"source": "FromClaim", **config} for config in asked]


def _only(node: str) -> Object:
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    return {"nodeSelectorTerms": [{"matchFields": [field]}]}
