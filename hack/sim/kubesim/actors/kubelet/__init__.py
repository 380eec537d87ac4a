"""A kubelet for drivers: real gRPC over unix sockets, pods and containers made up."""

from kubesim.actors.kubelet.cdi import Edits
from kubesim.actors.kubelet.node import Kubelet
from kubesim.actors.kubelet.pods import DEVICES_ANNOTATION

__all__ = ["DEVICES_ANNOTATION", "Edits", "Kubelet"]
