"""A cluster that runs pods: scheduler, controllers and kubelets are simulated, the driver on the nodes is real."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import kubesim
from hack.lab.cluster import JsonObject, Lab, opened
from hack.lab.processes import REPOSITORY, Daemon, eventually
from kubesim.actors import RECORDED, acting, control_plane
from kubesim.actors.kubelet import Kubelet
from kubesim.actors.kubelet.cdi import Edits

CLASSES = REPOSITORY / "deploy/classes"

_PODS = "/api/v1/namespaces/{}/pods"


@dataclass(slots=True, kw_only=True)
class NodeUnderTest:
    """What runs on one node. The daemons can be ended, killed and started again."""

    name: str
    lab: Lab
    kubelet: Kubelet
    root: Path
    agent: Daemon
    plugin: Daemon

    def start_agent(self, *words: str) -> Daemon:
        self.agent = self.lab.start_agent(self.name, *words)
        return self.agent

    def start_plugin(self, *words: str, **environment: str) -> Daemon:
        self.plugin = start_plugin(self.lab, self.name, self.root, *words, **environment)
        return self.plugin


def start_plugin(lab: Lab, node: str, root: Path, *words: str, **environment: str) -> Daemon:
    """The kubelet plugin, beside the agent of the node."""
    given = {**lab.machines[node].environment, "NODE_NAME": node, "KUBELET_ROOT": str(root), **environment}
    return lab.start(f"{node}-plugin.log", ("plugin", *words), given)


@dataclass(slots=True, kw_only=True)
class Town:
    """The cluster, its nodes by name, and the controller."""

    lab: Lab
    release: str
    controller: Daemon
    nodes: dict[str, NodeUnderTest] = field(default_factory=dict)

    @property
    def classic(self) -> bool:
        """Whether our controller allocates claims."""
        return self.lab.cluster.release.classic

    def resource_api(self, plural: str) -> str:
        """The path of a list of resource.k8s.io; of one namespace with ``namespaces/NAME/`` before the plural."""
        return f"/apis/resource.k8s.io/{version_of(self.lab.cluster)}/{plural}"

    def phase(self, pod: str, namespace: str = "default") -> str:
        """The pod's phase, "" while it has none, "gone" when there is no such pod."""
        try:
            found: JsonObject = self.lab.cluster.get(f"{_PODS.format(namespace)}/{pod}")
        except kubesim.Refusal as refusal:
            if refusal.code == 404:
                return "gone"
            raise
        return str(found.get("status", {}).get("phase", ""))

    def until_phase(self, phase: str, *pods: str, namespace: str = "default") -> None:
        """Wait until all these pods are in a phase ("gone" too)."""
        eventually(
            f"{phase}: {', '.join(pods)}",
            lambda: all(self.phase(pod, namespace) == phase for pod in pods) or None,
            self.explain,
        )

    def devices(self, pod: str, container: str, namespace: str = "default") -> tuple[str, ...]:
        """Device nodes that a running container has. Raises KeyError where it doesn't run."""
        for node in self.nodes.values():
            running: Mapping[str, Edits] | None = node.kubelet.containers(namespace, pod)
            if running is not None and container in running:
                return running[container].nodes
        raise KeyError(f"{namespace}/{pod}: {container}")

    def until_slices(self) -> None:
        """Wait until every node offers something."""

        def missing() -> set[str]:
            slices = self.lab.cluster.get(self.resource_api("resourceslices"))["items"]
            return self.nodes.keys() - {one["spec"].get("nodeName") for one in slices}

        eventually("offered by all nodes", lambda: None if missing() else True, self.explain)

    def until_known(self) -> None:
        """Wait until every node's agent has told of its GPUs: that is what our controller allocates from."""

        def unknown() -> list[str]:
            states = {name: self.lab.node_state(name) or {} for name in self.nodes}
            return [name for name, state in states.items() if not state.get("status", {}).get("devices")]

        eventually("known by all nodes", lambda: None if unknown() else True, self.explain)

    def until_nothing_left(self) -> None:
        """Wait until no node has an allocation, a CDI file or a VF."""

        def left() -> list[str]:
            found = []
            for name in self.nodes:
                status = (self.lab.node_state(name) or {}).get("status", {})
                cdi = Path(self.lab.machines[name].environment["CDI_ROOT"])
                found += [f"{name}: {one['name']}" for one in status.get("allocations", ())]
                found += [f"{name}: {path.name}" for path in cdi.glob("intel.com-gpu_*")]
                vfs = status.get("summary", {}).get("virtualFunctions", 0)
                found += [f"{name}: {vfs} VFs"] if vfs else []
            return found

        eventually("nothing left", lambda: None if left() else True, lambda: f"{left()}\n{self.explain()}")

    def explain(self) -> str:
        """Everything a person would look at first."""
        offers = self.lab.cluster.release.resource_versions.keys() & {
            "podschedulings",
            "podschedulingcontexts",
            "resourceslices",
        }
        seen = [
            self.lab.kubectl("get", ",".join(["pods,resourceclaims,gns", *offers]), "-A", "-o", "wide").out,
            self.lab.kubectl("get", "events", "-A").out,
        ]
        logs = sorted((self.lab.where / "logs").glob("*.log"))
        return "\n".join([*seen, *(f"-- {log.name}\n{log.read_text()[-4000:]}" for log in logs)])


def version_of(cluster: kubesim.Cluster) -> str:
    """The version of resource.k8s.io in which a cluster serves claims."""
    return cluster.release.resource_versions["resourceclaims"][0]


def class_manifest(cluster: kubesim.Cluster, classic: str = "classic") -> str:
    """Our classes in the version that a cluster serves; ``classic`` names the set for classic ones.

    The other set is "classic-later". Raises FileNotFoundError.
    """
    version = version_of(cluster)
    match version:
        case "v1alpha1":
            file = f"{classic}.yaml"
        case "v1alpha2":
            file = f"{classic}-v1alpha2.yaml"
        case "v1alpha3" if cluster.release.classic:
            file = f"{classic}-v1alpha3.yaml"
        case "v1alpha3" | "v1beta1":
            file = f"structured-{version}.yaml"
        case _:
            file = "structured.yaml"
    return (CLASSES / file).read_text()


@contextlib.contextmanager
def running_town(
    where: Path,
    machines: Mapping[str, str],
    *,
    release: str = "1.36",
    classic: bool = False,
    classes: str = "classic",
    scale: float = 0.05,
    flags: tuple[str, ...] = ("--layout", "Dynamic", "--linger-seconds", "1"),
) -> Iterator[Town]:
    """A cluster with a node for each of ``machines``, everything started, and our classes applied.

    ``classic`` switches the classic mode of 1.31 on (up to 1.30 there is no other), ``classes`` is which set of
    classes a classic cluster has, as for ``class_manifest``. ``scale`` shortens the times of the simulated actors
    (retries, polls), ``flags`` go to the node agents.
    """
    timing = RECORDED.scaled(scale)
    with opened(where, release=release, classic=classic) as lab, contextlib.ExitStack() as kubelets:
        lab.apply(class_manifest(lab.cluster, classes))
        town = Town(lab=lab, release=release, controller=lab.start_controller())
        for node, machine in machines.items():
            simulated = lab.add_node(node, machine)
            root = where / node / "kubelet"
            cdi = Path(simulated.environment["CDI_ROOT"])
            kubelet = Kubelet(lab.cluster, node, root=root, cdi_directories=(cdi,), timing=timing)
            kubelet.start()
            kubelets.callback(kubelet.stop)
            town.nodes[node] = NodeUnderTest(
                name=node,
                lab=lab,
                kubelet=kubelet,
                root=root,
                agent=lab.start_agent(node, *flags),
                plugin=start_plugin(lab, node, root),
            )
        with acting(lab.cluster, *control_plane(lab.cluster, timing)):
            if town.classic:
                town.until_known()
            else:
                town.until_slices()
            yield town
