"""`kube-simulate`: a simulated API server at the command line."""

import argparse
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml

from kubesim.cluster import Cluster, Logged
from kubesim.faults import Fault, Rule
from kubesim.refusals import Refusal
from kubesim.releases import RELEASES
from kubesim.server import serving
from kubesim.values import encode

NUMBERS = {"probability": float, "count": int, "seconds": float, "events": int, "behind": int}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="kube-simulate", description="A simulated Kubernetes API server.")
    commands = top.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve until interrupted")
    serve.add_argument(
        "--release", default="1.36", choices=sorted(RELEASES), help="Kubernetes release (%(default)s)"
    )
    serve.add_argument("--classic", action="store_true", help="with the classic mode of 1.31 (older ones have it)")
    serve.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    serve.add_argument("--plain", action="store_true", help="HTTP without TLS")
    serve.add_argument("--seed", type=int, default=0, help="decides on names, uids and chance (%(default)s)")
    serve.add_argument("--directory", type=Path, help="where to write the kubeconfig (default: a temporary one)")
    serve.add_argument("--log", type=Path, help="write every request to this file, as JSON lines, when done")
    serve.add_argument("--apply", type=Path, action="append", default=[], help="create the objects of a YAML file")
    serve.add_argument(
        "--fault",
        type=fault_rule,
        action="append",
        default=[],
        metavar="FAULT[,KEY=VALUE...]",
        help=f"{', '.join(each.name.lower().replace('_', '-') for each in Fault)}; "
        "keys: method, path, probability, count, seconds, events, behind",
    )
    return top


def fault_rule(text: str) -> Rule:
    """A rule from the command line. Raises argparse.ArgumentTypeError."""
    name, *settings = text.split(",")
    try:
        values = dict(each.split("=", 1) for each in settings)
        known = {field.name for field in fields(Rule)} - {"fault"}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        typed = {key: NUMBERS.get(key, str)(value) for key, value in values.items()}
        return Rule(fault=Fault[name.upper().replace("-", "_")], **typed)
    except (KeyError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Exit code 1 if it can't be started."""
    options = parser().parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        return _serve(options, ended)
    except (OSError, Refusal, yaml.YAMLError, ValueError) as error:
        print(f"kube-simulate: {error}", file=sys.stderr)
        return 1


def _serve(options: argparse.Namespace, ended: threading.Event) -> int:
    cluster = Cluster(options.release, classic=options.classic, seed=options.seed)
    for file in options.apply:
        cluster.load(file.read_text())
    for rule in options.fault:
        cluster.add_fault(rule)
    with tempfile.TemporaryDirectory(prefix="kubesim-") as temporary:
        directory = options.directory or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        with serving(cluster, directory, tls=not options.plain, port=options.port) as served:
            print(f"serving Kubernetes {options.release} at {served.url}")
            print(f"export KUBECONFIG={served.kubeconfig}", flush=True)
            ended.wait()
    if options.log:
        options.log.write_bytes(b"".join(log_line(each) for each in list(cluster.requests)))
    return 0


def log_line(logged: Logged) -> bytes:
    """One request as a line of JSON."""
    line = {
        "at": round(logged.at, 6),
        "user": logged.user,
        "method": logged.request.method,
        "url": logged.request.url,
        "status": logged.status,
        "fault": logged.fault.name if logged.fault else None,
        "headers": {key: value for key, value in logged.request.headers.items() if key != "authorization"},
        "body": logged.request.body.decode(errors="replace"),
    }
    return encode(line) + b"\n"
