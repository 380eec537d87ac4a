"""Commands that poke a running machine, for demos, the control socket and fault rules."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from gpusim.machine_files import load_faults, parse_faults
from gpusim.model.machine import Machine


class CommandError(ValueError):
    """A command that is malformed or cannot be done; the message is for people."""


@dataclass(frozen=True, slots=True)
class Command:
    usage: str
    what: str
    run: Callable[[Machine, str], None]
    """Gets the rest of the line, quotes and all."""


def _with_words(run: Callable[[Machine, list[str]], None]) -> Callable[[Machine, str], None]:
    return lambda machine, rest: run(machine, shlex.split(rest))


def _wedge(machine: Machine, address: str, methods: str | None = None) -> None:
    machine.wedge(address, methods)


def _report(machine: Machine, address: str, *pairs: str) -> None:
    split = (pair.partition("=") for pair in pairs)
    machine.report(address, {key: value for key, _, value in split})


def _write(machine: Machine, path: str, text: str) -> None:
    machine.sysfs.write(path, text)


def _fault(machine: Machine, rest: str) -> None:
    machine.add_faults(*parse_faults(f"faults: [{{{rest}}}]", "fault"))


COMMANDS = {
    "unplug": Command("ADDRESS", "a GPU is gone", _with_words(lambda machine, w: machine.unplug(*w))),
    "plug": Command("ADDRESS", "it is back", _with_words(lambda machine, w: machine.plug(*w))),
    "vanish": Command(
        "ADDRESS VF",
        "virtual function VF (from 0) falls off the bus",
        _with_words(lambda machine, w: machine.vanish(w[0], int(w[1]))),
    ),
    "wedge": Command(
        "ADDRESS [METHODS]", "the driver gives the GPU up", _with_words(lambda machine, w: _wedge(machine, *w))
    ),
    "report": Command(
        "ADDRESS KEY=VALUE...", "a change event of the card", _with_words(lambda machine, w: _report(machine, *w))
    ),
    "foreign-numvfs": Command(
        "ADDRESS COUNT",
        "somebody else sets the number of VFs",
        _with_words(lambda machine, w: machine.foreign_numvfs(w[0], int(w[1]))),
    ),
    "set": Command(
        "PATH TEXT",
        "an attribute reads so from now on",
        _with_words(lambda machine, w: machine.set_attribute(*w)),
    ),
    "write": Command(
        "PATH TEXT", "one write to an attribute", _with_words(lambda machine, w: _write(machine, *w))
    ),
    "fault": Command("KEY: VALUE, ...", "one fault rule, as in a fault file", _fault),
    "faults": Command(
        "FILE", "the rules of a file", _with_words(lambda machine, w: machine.add_faults(*load_faults(w[0])))
    ),
    "clear-faults": Command("", "no more faults", lambda machine, _: machine.clear_faults()),
    "reboot": Command("", "boot anew", lambda machine, _: machine.reboot()),
}


def run(machine: Machine, line: str) -> None:
    """Run one command. Raises CommandError with a message for people."""
    name, _, rest = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise CommandError(f"unknown command {name!r}; there are {', '.join(COMMANDS)}")
    try:
        command.run(machine, rest)
    except (IndexError, TypeError):
        raise CommandError(f"usage: {name} {command.usage}".strip()) from None
    except (KeyError, ValueError, OSError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise CommandError(f"{name}: {reason}") from error


def help_text() -> str:
    """One line per command."""
    return "\n".join(f"  {name + ' ' + command.usage:32} {command.what}" for name, command in COMMANDS.items())
