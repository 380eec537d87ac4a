"""Pods that are being scheduled: read when the scheduler asks for them, as watching all pods of a cluster would
cost more than everything else. What a pod claims does not change while it lives.
"""

from __future__ import annotations

import threading
from typing import Final
from urllib.parse import quote

import msgspec

from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.errors import Garbled, NotFound
from state.classic.scheduling import Pod, PodScheduling, read_pod

_MOST_KEPT: Final = 4096


class Pods:
    """Thread-safe."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._known: dict[str, Pod] = {}

    def of(self, scheduling: PodScheduling, *, again: bool = False) -> Pod | None:
        """The pod that is being scheduled; None if it is gone or another one. Raises ApiError.

        ``again``: what was read before is not enough, as names of claims may have been told since.
        """
        with self._lock:
            known = None if again else self._known.get(scheduling.pod_uid)
        if known is not None:
            return known
        namespace, name = quote(scheduling.namespace, safe=""), quote(scheduling.name, safe="")
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        try:
            pod = read_pod(self._client.get(path))
        except NotFound:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Garbled(f"not a pod: {error}", status=200, about=path) from error
        if pod.deleting or pod.uid != scheduling.pod_uid:
            return None
        with self._lock:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[pod.uid] = pod
        return pod
