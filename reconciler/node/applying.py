"""Carrying out a plan's steps on the machine. Each can be repeated from wherever a kill left it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from reconciler.node import cdi_dir
from reconciler.node.apply_host import ApplyFailed, ApplyHost, Stopping
from reconciler.node.binding import bind_driver
from reconciler.node.numvfs import set_num_vfs
from reconciler.node.vf_quotas import reset_provisioning, set_vf_profile
from state.actions import (
    Action,
    BindDriver,
    RemoveCdiSpec,
    ResetProvisioning,
    SetNumVfs,
    SetVfProfile,
    WriteCdiSpec,
)
from state.observed import PfSeen, SriovSeen

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action as it went: how many seconds it took, and why it failed if it did."""

    action: Action
    seconds: float
    failed: ApplyFailed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of one GPU's actions: those done, and the one that failed, after which nothing was tried.

    ``stopped`` says that the agent was told to stop before all was done.
    """

    done: tuple[Action, ...] = ()
    failed: tuple[Action, ApplyFailed] | None = None
    stopped: bool = False


def apply_all(
    actions: Sequence[Action],
    host: ApplyHost,
    *,
    began: Callable[[Action], None] = lambda _: None,
    ended: Callable[[Step], None] = lambda _: None,
) -> Applied:
    """Do the actions of one GPU in their order, up to the first error or until told to stop.

    ``began`` and ``ended`` hear of each action from the calling thread.
    """
    done: list[Action] = []
    for action in actions:
        if host.stopping():
            return Applied(done=tuple(done), stopped=True)
        began(action)
        try:
            step = _time(action, host)
        except Stopping:
            return Applied(done=tuple(done), stopped=True)
        _report(step)
        ended(step)
        if step.failed is not None:
            return Applied(done=tuple(done), failed=(action, step.failed))
        done.append(action)
    return Applied(done=tuple(done))


def apply_action(action: Action, host: ApplyHost) -> None:
    """Do one action, completely, from whatever state the machine is in. Raises ApplyFailed or Stopping.

    It looks at the machine itself and not at what was observed, which is older.
    """
    match action:
        case SetNumVfs():
            set_num_vfs(action.address, action.count, action.seen, host)
        case SetVfProfile():
            set_vf_profile(action, host)
        case ResetProvisioning():
            reset_provisioning(action.address, host)
        case BindDriver():
            bind_driver(action, host)
        case WriteCdiSpec():
            with _naming(action.file, host):
                cdi_dir.write_spec(host.roots.cdi, action.file, action.content)
        case RemoveCdiSpec():
            with _naming(action.file, host):
                cdi_dir.remove_spec(host.roots.cdi, action.file)
        case _:
            assert_never(action)


def doing(action: Action, gpu: PfSeen | None) -> str:
    """What is going on while the action runs, for those who wait: ``turning off 16 VFs``."""
    match action:
        case SetNumVfs(count=0):
            enabled = gpu.sriov.enabled if gpu is not None and isinstance(gpu.sriov, SriovSeen) else 0
            return f"turning off {_vfs(enabled)}" if enabled else "turning off VFs"
        case SetNumVfs():
            return f"enabling {_vfs(action.count)} ({action.profile})"
        case SetVfProfile():
            return f"setting quotas of {_vfs(action.count)} ({action.profile})"
        case ResetProvisioning():
            return "giving VF provisioning back to the kernel driver"
        case BindDriver():
            what = f"VF {action.slot.vf}" if action.slot.is_vf else "the GPU"
            return f"binding {what} to {action.driver}" if action.driver else f"unbinding {what}"
        case WriteCdiSpec():
            return f"writing CDI spec {action.file}"
        case RemoveCdiSpec():
            return f"removing CDI spec {action.file}"
        case _:
            assert_never(action)


def _time(action: Action, host: ApplyHost) -> Step:
    start = host.clock()
    try:
        apply_action(action, host)
    except ApplyFailed as failed:
        return Step(action=action, seconds=host.clock() - start, failed=failed)
    return Step(action=action, seconds=host.clock() - start)


def _report(step: Step) -> None:
    extra = {"action": type(step.action).__name__, "seconds": round(step.seconds, 3)}
    if step.action.pf is not None:
        extra["device"] = step.action.pf
    if step.failed is None:
        _log.info("done: %s", step.action, extra=extra)
    else:
        _log.error("failed: %s: %s", step.action, step.failed, extra=extra)


@contextlib.contextmanager
def _naming(name: str, host: ApplyHost) -> Iterator[None]:
    """Turn what goes wrong with a CDI file into ApplyFailed."""
    path = f"{host.roots.cdi}/{name}"
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise ApplyFailed(path=path, why=why, errno=error.errno) from error
    except ValueError as error:
        raise ApplyFailed(path=path, why=str(error)) from error


def _vfs(count: int) -> str:
    return "1 VF" if count == 1 else f"{count} VFs"
