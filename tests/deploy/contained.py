"""Starts a container of a manifest without a container runtime: its arguments, mounts, user and capabilities.

Its root is a read-only file system in memory, in a mount namespace of its own, with this machine's /usr and /etc,
Python, and the repository at /app. Network and processes are this machine's. There are no cgroups, no seccomp, no
AppArmor and no SELinux.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.lab.processes import Daemon, ended
from tests.deploy.manifests import REPOSITORY, JsonObject

_SYSTEM = ("usr", "etc", "bin", "lib", "lib32", "lib64", "sbin", "opt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a pod finds: where its volumes are, and what stands in the fields its environment refers to."""

    volumes: Mapping[str, Path]
    fields: Mapping[str, str]
    environment: Mapping[str, str]
    """What every container gets, as KUBERNETES_SERVICE_HOST."""


@contextlib.contextmanager
def running_container(
    pod: JsonObject, name: str, host: Host, where: Path, more: Sequence[str] = ()
) -> Iterator[Daemon]:
    """A container while the context lasts; ``more`` arguments come after its own.

    ``where`` is a directory for its root and its log.
    """
    (container,) = (each for each in pod["containers"] if each["name"] == name)
    root, log_file = where / f"{name}-root", where / "logs" / f"{name}.log"
    root.mkdir(parents=True)
    log_file.parent.mkdir(exist_ok=True)
    script = "\n".join(("set -e", *_mounts(root, container, host), _start(root, pod, container, more)))
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            ("unshare", "--mount", "--propagation", "private", "sh", "-c", script),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": "/app", **host.environment, **_fields(container, host)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    with ended(process):
        yield Daemon(process=process, log_file=log_file)


def _fields(container: JsonObject, host: Host) -> dict[str, str]:
    fields = {each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"] for each in container.get("env", ())}
    return {name: host.fields[path] for name, path in fields.items()}


def _mounts(root: Path, container: JsonObject, host: Host) -> Iterator[str]:
    yield f"mount -t tmpfs -o mode=755 none {root}"
    for name in _SYSTEM:
        source = Path("/", name)
        if source.is_symlink():
            yield f"ln -s {source.readlink()} {root / name}"
        elif source.is_dir():
            yield from _bind(source, root / name, read_only=True)
    if not sys.base_prefix.startswith("/usr"):
        yield from _bind(Path(sys.base_prefix), root / sys.base_prefix.lstrip("/"), read_only=True)
    yield f"mkdir -p {root}/run {root}/var {root}/tmp && ln -s /run {root}/var/run"
    yield from _bind(REPOSITORY, root / "app", read_only=True)
    yield from _bind(Path("/proc"), root / "proc", read_only=False)
    yield from _bind(Path("/dev"), root / "dev", read_only=False)
    for mount in container.get("volumeMounts", ()):
        # /var/run leads to /run, and absolute: not out of this root.
        place = mount["mountPath"].replace("/var/run/", "/run/").lstrip("/")
        yield from _bind(host.volumes[mount["name"]], root / place, read_only=mount.get("readOnly", False))
    if container["securityContext"]["readOnlyRootFilesystem"]:
        yield f"mount -o remount,ro {root}"


def _bind(source: Path, target: Path, *, read_only: bool) -> Iterator[str]:
    yield f"mkdir -p {target} && mount --bind {source} {target}"
    if read_only:
        yield f"mount -o remount,bind,ro {target}"


def _start(root: Path, pod: JsonObject, container: JsonObject, more: Sequence[str]) -> str:
    context = {**pod["securityContext"], **container["securityContext"]}
    program, *words = container["command"]
    assert program == "gpu-reconciler"
    python = Path("/app") / Path(sys.executable).relative_to(REPOSITORY)
    command = [str(python), "-m", "reconciler.cli", *words, *container["args"], *more]
    return f"exec chroot {root} {shlex.join((*_privileges(context), *command))}"


def _privileges(context: JsonObject) -> Iterator[str]:
    yield "setpriv"
    if context["runAsUser"] != 0:
        user = str(context["runAsUser"])
        yield from ("--reuid", user, "--regid", str(context["runAsGroup"]), "--clear-groups")
    if not context.get("privileged"):
        assert context["capabilities"] == {"drop": ["ALL"]}
        yield from ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
