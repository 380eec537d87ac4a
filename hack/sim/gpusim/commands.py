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
    run: Callable[[Machine, list[str]], None]


def _wedge(machine: Machine, arguments: list[str]) -> None:
    machine.wedge(arguments[0], arguments[1] if len(arguments) > 1 else None)


def _report(machine: Machine, arguments: list[str]) -> None:
    pairs = (argument.partition("=") for argument in arguments[1:])
    machine.report(arguments[0], {key: value for key, _, value in pairs})


def _fault(machine: Machine, arguments: list[str]) -> None:
    machine.add_faults(*parse_faults(f"faults: [{{{' '.join(arguments)}}}]", "fault"))


COMMANDS = {
    "unplug": Command("ADDRESS", "a GPU is gone", lambda machine, words: machine.unplug(words[0])),
    "plug": Command("ADDRESS", "it is back", lambda machine, words: machine.plug(words[0])),
    "vanish": Command(
        "ADDRESS VF",
        "virtual function VF (from 0) falls off the bus",
        lambda machine, words: machine.vanish(words[0], int(words[1])),
    ),
    "wedge": Command("ADDRESS [METHODS]", "the driver gives the GPU up", _wedge),
    "report": Command("ADDRESS KEY=VALUE...", "a change event of the card", _report),
    "foreign-numvfs": Command(
        "ADDRESS COUNT",
        "somebody else sets the number of VFs",
        lambda machine, words: machine.foreign_numvfs(words[0], int(words[1])),
    ),
    "set": Command(
        "PATH TEXT", "an attribute reads so from now on", lambda machine, words: machine.set_attribute(*words)
    ),
    "write": Command(
        "PATH TEXT", "one write to an attribute", lambda machine, words: _write(machine, *words)
    ),
    "fault": Command("KEY: VALUE, ...", "one fault rule, as in a fault file", _fault),
    "faults": Command(
        "FILE", "the rules of a file", lambda machine, words: machine.add_faults(*load_faults(words[0]))
    ),
    "clear-faults": Command("", "no more faults", lambda machine, words: machine.clear_faults()),
    "reboot": Command("", "boot anew", lambda machine, words: machine.reboot()),
}


def run(machine: Machine, line: str) -> None:
    """Run one command. Raises CommandError with a message for people."""
    words = shlex.split(line)
    if not words or words[0] not in COMMANDS:
        raise CommandError(f"unknown command {line!r}; there are {', '.join(COMMANDS)}")
    command = COMMANDS[words[0]]
    try:
        command.run(machine, words[1:])
    except (IndexError, TypeError):
        raise CommandError(f"usage: {words[0]} {command.usage}") from None
    except (KeyError, ValueError, OSError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise CommandError(f"{words[0]}: {reason}") from error


def help_text() -> str:
    """One line per command."""
    return "\n".join(f"  {name} {command.usage:22} {command.what}" for name, command in COMMANDS.items())


def _write(machine: Machine, path: str, text: str) -> None:
    machine.sysfs.write(path, text)
