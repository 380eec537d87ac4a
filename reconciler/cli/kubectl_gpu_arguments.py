"""``kubectl gpu``: from the command line to what is asked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from reconciler.cli.options import Format
from reconciler.cli.problems import UsageError
from reconciler.cli.version import version

_MOST_SECONDS = 86400.0
_MOST_REASON = 1024  # characters, as the custom resource definition has it
_EXITS = "exit codes: 0 well, 2 not (yet) so, 1 an error, 130 interrupted."


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One command with all it takes; what a command doesn't have keeps its default. ``timeout`` in seconds."""

    command: str
    name: str = ""
    node: str = ""
    namespace: str = ""
    kubeconfig: str = ""
    context: str = ""
    format: Format = Format.TABLE
    reason: str = ""
    undo: bool = False
    dry_run: bool = False
    wait: bool = False
    timeout: float = 300.0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by an exception instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def parse(words: Sequence[str]) -> Asked:
    """What the words ask for. Raises UsageError; ends with SystemExit after showing help or the version."""
    return Asked(**vars(_parser().parse_args(words)))


def _parser() -> _Parser:
    parser = _Parser(
        prog="kubectl gpu",
        description="Shows and steers the Intel GPUs of a cluster's nodes, through their GpuNodeStates.",
        epilog=_EXITS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kubectl-gpu {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_status(commands)
    _add_plan(commands)
    _add_explain(commands)
    _add_drain(commands)
    _add_release(commands)
    return parser


_Commands = argparse._SubParsersAction  # it has no public name


def _add_status(commands: _Commands[_Parser]) -> None:
    about = "Shows the nodes, and what is not well on them; of one NODE, or with -o wide, everything."
    _command(commands, "status", "show nodes, GPUs and who has them", about).add_argument(
        "node", metavar="NODE", nargs="?", default="", help="only this node"
    )


def _add_plan(commands: _Commands[_Parser]) -> None:
    about = "Shows the next steps of the nodes, and what has to wait and why. Exit code 2: there are some."
    _command(commands, "plan", "show what nodes are about to do, and what waits", about).add_argument(
        "node", metavar="NODE", nargs="?", default="", help="only this node"
    )


def _add_explain(commands: _Commands[_Parser]) -> None:
    about = "Tells all about one claim (UID, NAMESPACE/NAME or NAME), GPU (name or PCI address) or node."
    command = _command(commands, "explain", "tell all about one claim, GPU or node", about)
    command.add_argument("name", metavar="CLAIM|GPU|NODE", type=_filled, help="what to explain")
    _add_node(command)
    _add_namespace(command)


def _add_drain(commands: _Commands[_Parser]) -> None:
    about = "Sets an override: present users of the GPU go on, nobody new gets it. Other overrides stay."
    command = _command(commands, "drain", "let nobody new use a GPU", about)
    command.add_argument("name", metavar="GPU", type=_filled, help="its name or PCI address")
    _add_node(command)
    command.add_argument(
        "--reason", type=_reason, default="", metavar="TEXT", help="why, for those who come later"
    )
    command.add_argument("--undo", action="store_true", help="let it be used again")
    _add_changing(command, "until nobody uses it any more")


def _add_release(commands: _Commands[_Parser]) -> None:
    about = (
        "Has a node take back a claim's devices although the kubelet has not released them. It does so once, and "
        "only if it sees no process that has them open."
    )
    command = _command(commands, "release", "take back what a lost claim holds", about)
    command.add_argument("name", metavar="CLAIM", type=_filled, help="its UID, NAMESPACE/NAME or NAME")
    _add_node(command)
    _add_namespace(command)
    _add_changing(command, "until the node has taken it back")


def _command(commands: _Commands[_Parser], name: str, summary: str, about: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=about, epilog=_EXITS, allow_abbrev=False)
    formats = "table, wide (more of it), yaml or json"
    command.add_argument(
        "-o", "--output", dest="format", type=_format, default=Format.TABLE, metavar="FORMAT", help=formats
    )
    command.add_argument("--kubeconfig", default="", metavar="FILE", help="how to reach the cluster")
    command.add_argument("--context", default="", metavar="NAME", help="which context of the kubeconfig to use")
    return command


def _add_node(command: argparse.ArgumentParser) -> None:
    command.add_argument("--node", default="", metavar="NAME", help="the node, where names alone don't tell")


def _add_namespace(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-n",
        "--namespace",
        default="",
        metavar="NAME",
        help="where to look for a claim given by NAME (everywhere)",
    )


def _add_changing(command: argparse.ArgumentParser, until: str) -> None:
    command.add_argument("--dry-run", action="store_true", help="only show what would happen")
    command.add_argument("--wait", action="store_true", help=f"wait {until}")
    command.add_argument(
        "--timeout", type=_seconds, default=300.0, metavar="SECONDS", help="give up waiting after this long (300)"
    )


def _format(text: str) -> Format:
    try:
        return Format(text)
    except ValueError:
        allowed = ", ".join(known.value for known in Format)
        raise argparse.ArgumentTypeError(f"{text!r} is unknown (allowed: {allowed})") from None


def _filled(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _reason(text: str) -> str:
    if len(text) > _MOST_REASON:
        raise argparse.ArgumentTypeError(f"has {len(text)} characters (allowed: up to {_MOST_REASON})")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no time (allowed: seconds above 0, up to a day)")
    return seconds
