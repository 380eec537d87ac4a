"""``kubectl gpu``: the plugin that kubectl finds by the name of its program, ``kubectl-gpu``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.cli.kubectl_gpu_arguments import Asked, parse
from reconciler.cli.problems import CommandError, in_words, one_line
from reconciler.cli.terminal import Terminal, terminal
from reconciler.cli.version import version
from reconciler.runtime.kube.client import KubeClient
from reconciler.runtime.kube.config import Cluster, ConfigError
from reconciler.runtime.kube.connecting import connect
from reconciler.runtime.kube.errors import ApiError

FAILED = 1
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE: whoever read our output has had enough."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; ``argv`` is without the program's name."""
    words = sys.argv[1:] if argv is None else argv
    screen = terminal(sys.stdout, sys.stderr, os.environ)
    try:
        asked = parse(words)
        with contextlib.closing(_connect(asked, os.environ)) as client:
            code = _run(asked, client, screen)
        screen.out.flush()
        return code
    except (CommandError, ConfigError, ApiError) as error:
        return _failed(str(error), screen)
    except KeyboardInterrupt:
        return _failed("interrupted", screen, INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes nowhere
        return BROKEN_PIPE
    except OSError as error:
        return _failed(in_words(error), screen)


def _connect(asked: Asked, environment: Mapping[str, str]) -> KubeClient:
    """As kubectl does it: a kubeconfig that is named goes before the service account of a pod."""
    if environment.get("KUBECONFIG"):
        environment = {name: value for name, value in environment.items() if name != "KUBERNETES_SERVICE_HOST"}
    cluster = Cluster(
        user_agent=f"kubectl-gpu/{version()}",
        kubeconfig=Path(asked.kubeconfig) if asked.kubeconfig else None,
        context=asked.context or None,
    )
    return connect(cluster, environment=environment)


def _run(asked: Asked, client: KubeClient, screen: Terminal) -> int:
    match asked.command:
        case "status":
            from reconciler.cli.kubectl_gpu_showing import show_status

            return show_status(asked, client, screen)
        case "plan":
            from reconciler.cli.kubectl_gpu_showing import show_plan

            return show_plan(asked, client, screen)
        case "explain":
            from reconciler.cli.kubectl_gpu_explaining import explain

            return explain(asked, client, screen)
        case "drain":
            from reconciler.cli.kubectl_gpu_changing import drain

            return drain(asked, client, screen)
        case "release":
            from reconciler.cli.kubectl_gpu_changing import release

            return release(asked, client, screen)
        case _:
            raise CommandError(f"{asked.command}: no such command")


def _failed(why: str, screen: Terminal, code: int = FAILED) -> int:
    screen.err.write(f"kubectl gpu: {one_line(why)}\n")
    return code
