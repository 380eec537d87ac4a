"""A town whose API server enforces the deployed roles and policies, and whose daemons run as the manifests say."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

import kubesim
from hack.lab.cluster import Lab
from hack.lab.pods import NodeUnderTest, Town
from hack.lab.processes import Daemon
from kubesim.access import User
from kubesim.actors import RECORDED, acting, control_plane
from kubesim.actors.kubelet import Kubelet
from kubesim.admission import GuardedCluster, policies_in
from kubesim.rbac import RoleBased, service_account
from tests.deploy.contained import Host, running_container
from tests.deploy.manifests import DEPLOY, NAMESPACE, JsonObject, only, rendered

NODE, OTHER_NODE = "node-a", "node-b"
CONTROLLER = service_account(NAMESPACE, "gpu-controller")
AGENT = service_account(NAMESPACE, "gpu-node", node=NODE)
OPERATOR = User(name="olga", groups=("system:authenticated",))
"""A person with the role intel-gpu-operator."""

_GRANTED_TO_OLGA: JsonObject = {
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "operators"},
    "roleRef": {"kind": "ClusterRole", "name": "intel-gpu-operator"},
    "subjects": [{"kind": "User", "name": OPERATOR.name}],
}
ANY_PORT = "--probes-listen=127.0.0.1:0"
_TOKENS = {"controller": CONTROLLER, "agent": AGENT, "operator": OPERATOR}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedTown:
    """The town, what its guards have seen, and the kubeconfig of OPERATOR."""

    town: Town
    cluster: GuardedCluster
    rights: RoleBased
    operator: Path

    def refusals(self) -> list[str]:
        """Requests of the product that were refused for want of a right, or by a policy."""
        users = {CONTROLLER.name, AGENT.name}
        return [
            f"{each.user}: {each.request.method} {each.request.url}: {each.status}"
            for each in self.cluster.requests
            if each.user in users and each.status in (401, 403, 422)
        ]


def guarded_cluster(objects: tuple[JsonObject, ...], release: str = "1.36") -> tuple[GuardedCluster, RoleBased]:
    """An API server where these objects are in force, and in it too as far as the simulation has their kinds."""
    rights = RoleBased((*objects, _GRANTED_TO_OLGA))
    cluster = GuardedCluster(release, policies=policies_in(objects), authorizer=rights)
    for each in objects:
        cluster.load(yaml.safe_dump(each))
    cluster.tokens.update(_TOKENS)
    return cluster, rights


def classic_objects() -> tuple[JsonObject, ...]:
    """What is applied to a cluster with classic dynamic resource allocation (1.26), by the driver's later name."""
    files = (*sorted((DEPLOY / "crd").glob("*.yaml")), DEPLOY / "classes/classic-later.yaml")
    loaded = [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]
    return (*loaded, *rendered("overlays/classic-1.26"))


@contextlib.contextmanager
def guarded_town(
    where: Path, machine: str, objects: tuple[JsonObject, ...], release: str = "1.36"
) -> Iterator[GuardedTown]:
    """One node with this machine; all containers are started as the manifests say."""
    timing = RECORDED.scaled(0.05)
    cluster, rights = guarded_cluster(objects, release)
    for name in ("home", "api"):
        (where / name).mkdir()
    with contextlib.ExitStack() as closing:
        served = closing.enter_context(kubesim.serving(cluster, where / "api"))
        lab = Lab(
            where=where, cluster=cluster, kubeconfig=served.kubeconfig, server=served.server, closing=closing
        )
        controller = closing.enter_context(_controller(where, objects, served))
        town = Town(lab=lab, release=release, controller=controller)
        lab.add_node(NODE, machine)
        root, cdi = where / "kubelet", where / NODE / "cdi"
        kubelet = Kubelet(cluster, NODE, root=root, cdi_directories=(cdi,), timing=timing)
        kubelet.start()
        closing.callback(kubelet.stop)
        agent, plugin = closing.enter_context(_node_pod(where, objects, served))
        town.nodes[NODE] = NodeUnderTest(
            name=NODE, lab=lab, kubelet=kubelet, root=root, agent=agent, plugin=plugin
        )
        with acting(cluster, *control_plane(cluster, timing, immediate=True)):
            yield GuardedTown(
                town=town, cluster=cluster, rights=rights, operator=_kubeconfig(served.kubeconfig, "operator")
            )


@contextlib.contextmanager
def _controller(where: Path, objects: tuple[JsonObject, ...], served: kubesim.Served) -> Iterator[Daemon]:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    # What kubelets add for automountServiceAccountToken.
    token: JsonObject = {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    (container,) = pod["containers"]
    pod = {**pod, "containers": [{**container, "volumeMounts": [{**token, "readOnly": True}]}]}
    host = _host(where, served, {"token": _token(where, served, "controller")})
    with running_container(pod, "controller", host, where, (ANY_PORT,)) as daemon:
        yield daemon


@contextlib.contextmanager
def _node_pod(
    where: Path, objects: tuple[JsonObject, ...], served: kubesim.Served
) -> Iterator[tuple[Daemon, Daemon]]:
    """Agent and plugin, with the node's machine as their host, and its kubelet below a short path."""
    pod = only(objects, "DaemonSet")["spec"]["template"]["spec"]
    root = str(where / "kubelet")
    pod = json.loads(json.dumps(pod).replace("/var/lib/kubelet", root))
    machine = where / NODE
    volumes = {name: machine / name for name in ("sys", "dev", "cdi")}
    volumes |= {name: machine / "run" / name for name in ("status", "marks", "lock")}
    volumes |= {"proc": Path("/proc"), "state": machine / "lib", "token": _token(where, served, "agent")}
    volumes |= {"plugins": where / "kubelet/plugins", "registry": where / "kubelet/plugins_registry"}
    for path in volumes.values():
        path.mkdir(parents=True, exist_ok=True)  # DirectoryOrCreate
    host = _host(where, served, volumes)
    flags = ("--layout=Dynamic", "--linger-seconds=0", "--uevents=off")
    with (
        running_container(pod, "agent", host, where, flags) as agent,
        running_container(pod, "plugin", host, where, (f"--kubelet-root={root}", ANY_PORT)) as plugin,
    ):
        yield agent, plugin


def _host(where: Path, served: kubesim.Served, volumes: dict[str, Path]) -> Host:
    address = urlsplit(served.url)
    return Host(
        volumes=volumes,
        fields={"spec.nodeName": NODE, "metadata.uid": "0dd5ee7d-43c6-4b0c-8a0e-8c9c0e0f2d3b"},
        environment={
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
        },
    )


def _token(where: Path, served: kubesim.Served, name: str) -> Path:
    """What is projected for a service account."""
    directory = where / f"token-{name}"
    directory.mkdir()
    assert served.credentials is not None
    (directory / "token").write_text(name)
    (directory / "ca.crt").write_bytes(served.credentials.authority)
    (directory / "namespace").write_text(NAMESPACE)
    return directory


def _kubeconfig(administrators: Path, token: str) -> Path:
    """The administrator's kubeconfig with another's token."""
    config = yaml.safe_load(administrators.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    path = administrators.with_name(f"{token}.kubeconfig")
    path.write_text(yaml.safe_dump(config))
    return path
