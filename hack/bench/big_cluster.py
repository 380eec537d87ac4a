"""A cluster of any size as its API server shows it to the controller: made up on the spot, nothing is stored.

Every claim is allocated and has its entry; only what a measurement changes, or the controller writes, is kept.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
NODE_STATES = "/apis/gpu.dra.intel.com/v1alpha1/gpunodestates"
GPUS = 8
_FILLER: dict[str, object] = {
    f"f:part{number}": {"f:one": {}, "f:two": {}, "f:three": {}, "f:four": {}} for number in range(20)
}


class BigCluster:
    """`nodes` nodes with `claims_per_node` claims each."""

    def __init__(self, *, nodes: int, claims_per_node: int) -> None:
        self.nodes = nodes
        self.claims_per_node = claims_per_node
        self.version = 1000
        self.claims_watch: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.nodes_watch: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.written: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.extra: dict[str, dict[str, Any]] = {}
        self.specs: dict[str, tuple[dict[str, Any], int]] = {}

    def claim(self, number: int) -> dict[str, Any]:
        """Claim number n is on node n modulo the number of nodes, on the GPU that its turn there gives it."""
        turn, node = divmod(number, self.nodes)
        pf = f"0000-{turn % GPUS:02x}-00-0-0x56c0"
        return self._claim(f"claim-{number:06}", f"node-{node:05}", f"{pf}-m16", "1")

    def new_claim(self, number: int, node: int) -> dict[str, Any]:
        """One that is not in the lists, but in the watch, as allocated a moment ago."""
        self.version += 1
        claim = self._claim(f"new-{number:06}", f"node-{node:05}", "0000-00-00-0-0x56c0-m16", str(self.version))
        self.extra[claim["metadata"]["name"]] = claim
        self.claims_watch.put(json.dumps({"type": "ADDED", "object": claim}).encode() + b"\n")
        return claim

    def delete_claim(self, name: str) -> None:
        self.version += 1
        claim = self.extra.pop(name)
        claim["metadata"]["resourceVersion"] = str(self.version)
        self.claims_watch.put(json.dumps({"type": "DELETED", "object": claim}).encode() + b"\n")

    def node_state(self, number: int) -> dict[str, Any]:
        """The node's GpuNodeState, as last written."""
        name = f"node-{number:05}"
        spec, generation = self.specs.get(name) or (self._spec(number), 1)
        version = str(10 + generation)
        metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": version, "generation": generation}
        return {
            "apiVersion": "gpu.dra.intel.com/v1alpha1",
            "kind": "GpuNodeState",
            "metadata": metadata,
            "spec": spec,
            "status": {"observedGeneration": 1, "bootID": "boot", "version": "1"},
        }

    def write(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Take in a server-side apply: the whole spec is its manager's."""
        number = int(name.removeprefix("node-"))
        generation = self.node_state(number)["metadata"]["generation"] + 1
        self.specs[name] = body["spec"], generation
        state = self.node_state(number)
        self.nodes_watch.put(json.dumps({"type": "MODIFIED", "object": state}).encode() + b"\n")
        self.written.put(name)
        return state

    def _spec(self, number: int) -> dict[str, Any]:
        entries = []
        for turn in range(self.claims_per_node):
            claim = self.claim(turn * self.nodes + number)
            (result,) = claim["status"]["allocation"]["devices"]["results"]
            device = {key: result[key] for key in ("request", "pool", "device", "shareID")}
            device["physicalFunction"] = result["device"].removesuffix("-m16")
            device["virtualFunction"] = {"profile": "flex170_m16", "index": turn // GPUS}
            device["memory"] = 887095296
            entries.append(
                {
                    "name": claim["metadata"]["uid"],
                    "claimNamespace": "ml",
                    "claimName": claim["metadata"]["name"],
                    "source": "resource.k8s.io/v1",
                    "devices": [device],
                }
            )
        return {"adoptedUID": f"uid-node-{number:05}", "allocations": entries, "withdrawalsConfirmed": {}}

    def _claim(self, name: str, node: str, device: str, version: str) -> dict[str, Any]:
        uid = f"5a1c0de0-0000-4000-8000-{name[-6:]:>12}".replace(" ", "0") + (
            "n" if name.startswith("new") else ""
        )
        result = {"request": "gpu", "driver": "gpu.intel.com", "pool": node, "device": device}
        share = {"shareID": f"{uid[:-1]}5", "consumedCapacity": {"memory": "887095296"}}
        managed = {"manager": "kube-scheduler", "operation": "Update", "fieldsV1": {"f:status": _FILLER}}
        return {
            "metadata": {
                "name": name,
                "namespace": "ml",
                "uid": uid,
                "resourceVersion": version,
                "managedFields": [managed],
            },
            "spec": {
                "devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "vf.gpu.intel.com"}}]}
            },
            "status": {"allocation": {"devices": {"results": [{**result, **share}]}}},
        }

    def find_claim(self, name: str) -> dict[str, Any] | None:
        return self.claim(int(name[-6:])) if name.startswith("claim-") else self.extra.get(name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    cluster: BigCluster

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if "watch" in query:
            watched = {CLAIMS: self.cluster.claims_watch, NODE_STATES: self.cluster.nodes_watch}[url.path]
            self._stream(watched)
        elif url.path == CLAIMS:
            total = self.cluster.nodes * self.cluster.claims_per_node
            self._page(query, total, self.cluster.claim)
        elif url.path == NODE_STATES:
            self._page(query, self.cluster.nodes, self.cluster.node_state)
        elif url.path == "/apis/resource.k8s.io":
            self._answer(200, {"versions": [{"version": "v1"}]})
        elif url.path == "/apis/resource.k8s.io/v1":
            self._answer(200, {"resources": [{"name": "resourceclaims"}]})
        else:
            claim = self.cluster.find_claim(url.path.rsplit("/", 1)[-1])
            missing = {"kind": "Status", "code": 404, "details": {"name": "it"}}
            self._answer(200 if claim else 404, claim or missing)

    def do_POST(self) -> None:
        self._answer(201, self._body())

    def do_PATCH(self) -> None:
        name = urlsplit(self.path).path.rsplit("/", 1)[-1]
        body = self._body()
        self._answer(200, self.cluster.write(name, body) if name.startswith("node-") else body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return body

    def _page(self, query: dict[str, str], total: int, make: Any) -> None:
        start = int(query.get("continue", "0"))
        end = min(total, start + int(query.get("limit", total)))
        metadata = {"resourceVersion": str(self.cluster.version), "continue": str(end) if end < total else ""}
        self._answer(200, {"metadata": metadata, "items": [make(number) for number in range(start, end)]})

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, lines: queue.SimpleQueue[bytes | None]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while (line := lines.get()) is not None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True


@contextmanager
def serving(cluster: BigCluster) -> Iterator[str]:
    """Serve the cluster; gives its address."""
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        cluster.claims_watch.put(None)
        cluster.nodes_watch.put(None)
        server.shutdown()
        server.server_close()
        thread.join()
