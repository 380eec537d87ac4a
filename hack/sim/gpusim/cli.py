"""gpu-simulate: a simulated machine with Intel GPUs at a directory, or as /sys of one program."""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from gpusim import commands, control, fuse_face, namespace
from gpusim.machine_files import load_faults, load_machine, machine_names
from gpusim.model.delays import INSTANT, REALISTIC
from gpusim.model.machine import Machine
from gpusim.session import laid_out
from gpusim.strict import FormatError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 well, 1 the machine cannot be simulated, 2 wrong usage; with --namespace the command's."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["poke"]:
        return _poke(words[1:])
    inner = words[words.index("--") + 1 :] if "--" in words else []
    parser = _parser()
    options = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    if options.list:
        return _list()
    if options.machine is None:
        parser.error("which machine? (--list names them)")
    if options.namespace != bool(inner):
        parser.error("--namespace needs a command after --, and a command needs --namespace")
    if not options.namespace and options.at is None:
        parser.error("--at DIR is needed")
    try:
        return _simulate(options, inner)
    except (FormatError, OSError, RuntimeError) as error:
        print(f"gpu-simulate: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu-simulate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands on standard input, or with: gpu-simulate poke DIR 'COMMAND'\n" + commands.help_text(),
    )
    parser.add_argument("machine", nargs="?", help="name of a machine, or a YAML file")
    parser.add_argument("--at", type=Path, metavar="DIR", help="where sys, dev, proc, cdi, run, lib are made")
    parser.add_argument("--realistic", action="store_true", help="take as long as a real kernel")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="fault rules (YAML)")
    parser.add_argument("--seed", type=int, help="repeat chances of faults and boot ids; default: new ones")
    parser.add_argument("--real-nodes", action="store_true", help="device nodes c 1:3 instead of empty files")
    parser.add_argument("--namespace", action="store_true", help="run the command after -- where this is /sys")
    parser.add_argument("--list", action="store_true", help="name the machines and stop")
    return parser


def _list() -> int:
    for name in machine_names():
        print(f"{name:16} {load_machine(name).description}")
    return 0


def _poke(words: Sequence[str]) -> int:
    if len(words) < 2:
        print(f"usage: gpu-simulate poke DIR 'COMMAND'\n{commands.help_text()}", file=sys.stderr)
        return 2
    try:
        answer = control.poke(Path(words[0]), " ".join(words[1:]))
    except OSError as error:
        print(f"gpu-simulate: no machine runs at {words[0]}: {error.strerror}", file=sys.stderr)
        return 1
    print(answer)
    return 0 if answer == "ok" else 1


def _simulate(options: argparse.Namespace, inner: Sequence[str]) -> int:
    reason = fuse_face.unavailable()
    if reason is not None:
        raise RuntimeError(reason)
    delays = REALISTIC if options.realistic else INSTANT
    seed = secrets.randbits(32) if options.seed is None else options.seed
    machine = Machine(load_machine(options.machine), delays=delays, seed=seed)
    if options.faults is not None:
        machine.add_faults(*load_faults(options.faults))
    if not options.namespace:
        return _stay(machine, options.at.resolve(), real_nodes=options.real_nodes)
    namespace.enter_private()
    if options.at is not None:
        return namespace.run_inside(machine, options.at.resolve(), inner, real_nodes=options.real_nodes)
    with tempfile.TemporaryDirectory(prefix="gpu-simulate-") as directory:
        return namespace.run_inside(machine, Path(directory), inner, real_nodes=options.real_nodes)


def _stay(machine: Machine, where: Path, *, real_nodes: bool) -> int:
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with laid_out(machine, where, real_nodes=real_nodes) as variables:
        print(f"{machine.spec.description}, at {where}. Try:")
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        print(f"  {settings} gpu-reconciler discover")
        print(f"  PROCFS_ROOT={where / 'proc'} adds the simulated boot id, but hides all processes.", flush=True)
        if _stdin_speaks():
            threading.Thread(target=_read_commands, args=(machine, done), name="stdin", daemon=True).start()
        done.wait()
    return 0


def _stdin_speaks() -> bool:
    """A terminal or a pipe; /dev/null (as in the background of a script) is not the end of the simulation."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return os.isatty(0) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _read_commands(machine: Machine, done: threading.Event) -> None:
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            commands.run(machine, line)
        except commands.CommandError as error:
            print(f"error: {error}", flush=True)
        else:
            print("ok", flush=True)
    done.set()
