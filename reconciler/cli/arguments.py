"""From the command line and the environment to ``Options``."""

from __future__ import annotations

import argparse
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from reconciler.cli.locations import LOCATIONS, locate, usual
from reconciler.cli.options import Format, Options
from reconciler.cli.problems import UsageError, allowing
from reconciler.cli.teaching import LESSONS, Lesson, environment_help, epilog

_INVALID_CHOICE = re.compile(r"invalid choice: (?P<found>.+) \(choose from (?P<choices>.+)\)", re.DOTALL)
_TAKES_FILE = ("plan", "apply", "assert", "run")
_DAEMONS = ("run", "node")
_OF_NODES = ("node", "plugin")
_POD_UID = re.compile(r"[a-z0-9][a-z0-9-]{0,35}")
_MOST_LINGER = 86400
_HELP_WIDTH = 79
_MODE = re.compile(r"[a-z]+[0-9]+")
_MOST_SECONDS = 7 * 86400.0


class HelpAsked(Exception):
    """Help or the version was asked for; the message is the text to show."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by an exception, in the words of all other errors here, instead of exiting."""

    def error(self, message: str) -> NoReturn:
        what, colon, why = message.removeprefix("argument ").partition(": ")
        if what == "the following arguments are required":
            raise UsageError(f"{why}: is required (see {self.prog} --help)")
        if what.startswith("unrecognized arguments"):
            raise UsageError(f"{why or what.partition(' ')[2]}: not known here (see {self.prog} --help)")
        if not colon:
            raise UsageError(f"{message} (see {self.prog} --help)")
        choice = _INVALID_CHOICE.fullmatch(why)
        if choice is None:
            raise UsageError(f"{what}: {why}")
        allowed = tuple(name.strip(" '") for name in choice["choices"].split(","))
        raise UsageError(allowing(what, f"{choice['found']} is unknown", allowed))

    def print_help(self, file: object = None) -> NoReturn:
        raise HelpAsked(self.format_help())


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in lines of one width. Asking the terminal for its own costs an import that every command would pay."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_HELP_WIDTH, max_help_position=26)


class _Version(argparse.Action):
    """``--version``: looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, *ignored: object) -> NoReturn:
        from reconciler.cli.version import version

        raise HelpAsked(f"gpu-reconciler {version()}\n")


def parse(words: Sequence[str], environment: Mapping[str, str]) -> Options:
    """What the words ask for. Raises UsageError, and HelpAsked with the text to show."""
    found = vars(_parser().parse_args(words))
    command: str = found.pop("command")
    flags = {location.field: found.pop(location.field) for location in LOCATIONS if location.field in found}
    roots, notes = locate(flags, environment)
    output = _output(command, LESSONS[command], found.pop("output", None))
    forced = frozenset(found.pop("force_release", ()))
    if command in _OF_NODES:
        found["node_name"] = _node_name(command, found.get("node_name"), environment)
    if command == "plugin":
        found["kubelet_root"] = found.get("kubelet_root") or environment.get("KUBELET_ROOT", "")
        found["instance"] = _instance(environment) if found.pop("rolling", False) else ""
    return Options(command=command, roots=roots, notes=notes, format=output, force_release=forced, **found)


def _node_name(command: str, given: str | None, environment: Mapping[str, str]) -> str:
    name = given or environment.get("NODE_NAME", "")
    if not name:
        see = f"(see gpu-reconciler {command} --help)"
        raise UsageError(f"--node-name: is required, unless NODE_NAME says it {see}")
    return name


def _instance(environment: Mapping[str, str]) -> str:
    uid = environment.get("POD_UID", "")
    if not _POD_UID.fullmatch(uid):
        raise UsageError(f"--rolling: POD_UID is {uid!r} (allowed: a pod's UID)")
    return uid


def _output(command: str, lesson: Lesson, asked: Format | None) -> Format:
    if asked is None:
        return lesson.formats[0] if lesson.formats else Format.TABLE
    if not lesson.formats:
        raise UsageError(f"-o/--output: {command} has no output, it only logs")
    if asked not in lesson.formats:
        allowed = tuple(known.value for known in lesson.formats)
        raise UsageError(allowing("-o/--output", f"{command} has no {asked.value} output", allowed))
    return asked


def _parser() -> _Parser:
    everywhere = tuple(location.field for location in LOCATIONS)
    parser = _Parser(
        prog="gpu-reconciler",
        usage="%(prog)s COMMAND [options]",
        description="Keeps Intel GPUs and their SR-IOV virtual functions (VFs) as a desired-state\n"
        "file wants them, and gives them to containers through CDI.",
        epilog=f"{environment_help(everywhere)}\n\n"
        "exit codes: 0 well, 2 not as wanted, 1 an error, 130 interrupted.\n"
        "gpu-reconciler COMMAND --help tells what they mean there, with examples.",
        formatter_class=_Formatter,
        parents=[_common(everywhere, output=True)],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="show the version")
    commands = parser.add_subparsers(
        prog="gpu-reconciler", dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for name, lesson in LESSONS.items():
        command = commands.add_parser(
            name,
            usage=f"%(prog)s {lesson.usage}",
            help=lesson.summary,
            description=textwrap.fill(lesson.about, _HELP_WIDTH),
            epilog=epilog(lesson),
            formatter_class=_Formatter,
            parents=[_common(lesson.places, output=bool(lesson.formats))],
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
        )
        _add_own(command, name)
    return parser


def _common(places: tuple[str, ...], *, output: bool) -> _Parser:
    """The options for before or after the command. No defaults: those of one place would undo the other.

    What doesn't matter to a command is taken all the same, but not shown.
    """
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS, formatter_class=_Formatter)
    shown = "table, wide (more columns), yaml or json; memory is in bytes in the last two"
    common.add_argument(
        "-o", "--output", type=_format, metavar="FORMAT", help=shown if output else argparse.SUPPRESS
    )
    group = common.add_argument_group("places")
    for location in LOCATIONS:
        meaning = f"{location.meaning} ({location.variable}; {usual(location)})"
        group.add_argument(
            location.flag,
            dest=location.field,
            metavar="PATH",
            help=meaning if location.field in places else argparse.SUPPRESS,
        )
    return common


def _add_own(command: argparse.ArgumentParser, name: str) -> None:
    """The options of one command alone."""
    if name == "explain":
        command.add_argument("name", metavar="DEVICE|CLAIM|ALLOCATION", help="what to explain")
        command.add_argument("-f", "--file", metavar="FILE", type=_filled, help="the desired state, - for stdin")
    elif name in _TAKES_FILE:
        stdin = "" if name == "run" else ", - for stdin"
        command.add_argument(
            "-f",
            "--file",
            metavar="FILE",
            type=_filled,
            required=True,
            help=f"the desired state (YAML or JSON){stdin}",
        )
    if name in (*_TAKES_FILE, "explain", "node"):
        _add_planning(command, linger=30 if name in _DAEMONS else 0)
    if name in (*_TAKES_FILE, "explain"):
        _add_force(command)
    if name == "apply":
        command.add_argument(
            "--timeout", type=_seconds, metavar="SECONDS", help="give up waiting after this long (60)"
        )
    if name in _DAEMONS:
        _add_daemon(command)
    if name in _OF_NODES:
        command.add_argument(
            "--node-name", type=_filled, metavar="NAME", help="the Node that this machine is (NODE_NAME)"
        )
    if name == "node":
        _add_cluster(command)
        _add_offer(command)
    if name == "plugin":
        _add_plugin(command)
    if name == "controller":
        _add_controller(command)
        _add_cluster(command)


def _add_planning(command: argparse.ArgumentParser, *, linger: int) -> None:
    command.add_argument(
        "--linger-seconds",
        type=_linger,
        default=linger,
        metavar="SECONDS",
        help=f"keep VFs that nobody wants any more for this long ({linger}); the file's policy wins",
    )
    command.add_argument(
        "--processes",
        type=_one_of("auto", "visible", "hidden"),
        metavar="MODE",
        help="whether all processes of the machine can be seen from here: auto, visible or hidden (auto)",
    )


def _add_force(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--force-release",
        type=_filled,
        action="append",
        default=[],
        metavar="NAME",
        help="allocation whose devices nobody uses any more, where processes can't be seen (repeatable)",
    )


def _add_controller(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--lease-namespace", type=_filled, metavar="NAME", help="where replicas keep their Lease (the pod's own)"
    )
    command.add_argument(
        "--probes-listen", type=_listen, metavar="[ADDR:]PORT", help="serve /healthz and /readyz there (off)"
    )
    command.add_argument(
        "--preferred-allocation-policy",
        choices=("none", "packed", "balanced"),
        default="none",
        help="Kubernetes 1.26 to 1.30: GPUs with the least (packed) or most left (balanced) come first (none)",
    )
    command.add_argument(
        "--allocation-policy-resource",
        choices=("memory", "millicores"),
        default="memory",
        help="what of a GPU that policy looks at (memory)",
    )
    _add_serving(command)


def _add_plugin(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kubelet-root",
        type=_filled,
        metavar="PATH",
        help="the kubelet's root directory (KUBELET_ROOT; /var/lib/kubelet)",
    )
    command.add_argument(
        "--rolling",
        action="store_true",
        help="name sockets after the pod (POD_UID), so that two plugins can overlap (Kubernetes 1.33 and newer)",
    )
    command.add_argument(
        "--probes-listen", type=_listen, metavar="[ADDR:]PORT", help="answer gRPC health checks there (off)"
    )
    _add_serving(command)


def _add_daemon(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--resync-seconds", type=_seconds, metavar="SECONDS", help="look everywhere this often (60)"
    )
    command.add_argument(
        "--uevents",
        type=_one_of("kernel", "udev", "off"),
        metavar="SOURCE",
        help="who tells of devices: kernel, udev or off (kernel)",
    )
    _add_serving(command)


def _add_serving(command: argparse.ArgumentParser) -> None:
    """What all daemons have."""
    command.add_argument(
        "--metrics-listen", type=_listen, metavar="[ADDR:]PORT", help="serve Prometheus metrics there (off)"
    )
    command.add_argument(
        "--log-format", type=_one_of("text", "json"), metavar="FORMAT", help="text or json (text)"
    )
    command.add_argument(
        "--log-level",
        type=_one_of("debug", "info", "warning", "error"),
        metavar="LEVEL",
        help="debug, info, warning or error (info)",
    )


def _add_cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--kubeconfig",
        type=_filled,
        metavar="FILE",
        help="how to reach the API server (in a pod: its service account; else KUBECONFIG, ~/.kube/config)",
    )
    command.add_argument("--context", type=_filled, metavar="NAME", help="which context of the kubeconfig to use")


def _add_offer(command: argparse.ArgumentParser) -> None:
    offer = command.add_argument_group("what schedulers are offered, where the GpuNodeState's policy is silent")
    offer.add_argument(
        "--layout",
        type=_one_of("Auto", "Dynamic", "Pinned", "CounterFree"),
        metavar="LAYOUT",
        help="how GPUs are offered: Auto, Dynamic, Pinned or CounterFree (Auto)",
    )
    offer.add_argument(
        "--profiles", type=_modes, metavar="MODES", help="VF modes to offer, as m4,m8 (all that fit)"
    )
    offer.add_argument(
        "--shared-memory", type=_truth, metavar="BOOL", help="offer shares of a GPU's memory (true)"
    )
    offer.add_argument(
        "--binding-conditions",
        type=_one_of("Never", "OnReconfigure"),
        metavar="WHEN",
        help="have schedulers wait for VFs before binding pods: Never or OnReconfigure (Never)",
    )
    offer.add_argument(
        "--reorder", type=_truth, metavar="BOOL", help="offer GPUs that are split already first (false)"
    )


def _modes(text: str) -> tuple[str, ...]:
    modes = tuple(mode for mode in text.split(",") if mode)
    for mode in modes:
        if not _MODE.fullmatch(mode):
            raise argparse.ArgumentTypeError(f"{mode!r} is no mode (as m4 or fs2, with commas in between)")
    if not modes:
        raise argparse.ArgumentTypeError("must not be empty")
    return modes


def _truth(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


def _one_of(*allowed: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown (allowed: {', '.join(allowed)})")
        return text

    return checked


def _format(text: str) -> Format:
    return Format(_one_of(*(known.value for known in Format))(text))


def _filled(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no time (allowed: seconds above 0, up to 7 days)")
    return seconds


def _linger(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= _MOST_LINGER):
        raise argparse.ArgumentTypeError(f"{text!r} is no time (allowed: whole seconds from 0 to {_MOST_LINGER})")
    return int(text)


def _listen(text: str) -> str:
    from reconciler.runtime.metrics import parse_listen

    try:
        parse_listen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
