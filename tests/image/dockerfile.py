"""Reads the Dockerfile: its stages, what they copy from the repository, and what they set."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.contract_files import REPOSITORY

_STAGE = re.compile(r"(?P<base>\S+) AS (?P<name>\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """From one FROM to the next; instructions are pairs of keyword and the rest of the line."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]

    def copied(self) -> list[tuple[str, str]]:
        """Paths of the repository, each with where it goes."""
        found = []
        for rest in self.all("COPY"):
            if not rest.startswith("--from="):
                *sources, target = rest.split()
                found += [(source, target) for source in sources]
        return found

    def pairs(self, keyword: str) -> dict[str, str]:
        """The names and values of an ENV or LABEL."""
        words = [word for rest in self.all(keyword) for word in shlex.split(rest)]
        return dict(word.split("=", 1) for word in words)


def arguments() -> dict[str, str]:
    """The ARGs before the first stage, with their defaults."""
    return dict(rest.split("=", 1) for keyword, rest in _before_stages() if keyword == "ARG")


def stages() -> dict[str, Stage]:
    """By name, in order."""
    found: dict[str, Stage] = {}
    current: Stage | None = None
    for keyword, rest in _instructions():
        if keyword == "FROM":
            matched = _STAGE.fullmatch(rest)
            assert matched, f"a stage without a name: {rest}"
            current = found[matched["name"]] = Stage(name=matched["name"], base=matched["base"])
        elif current is not None:
            current.instructions.append((keyword, rest))
    return found


def lineage(stage: Stage) -> list[Stage]:
    """The stage and those it is built on, nearest first."""
    everything = stages()
    line = [stage]
    while line[-1].base in everything:
        line.append(everything[line[-1].base])
    return line


def words(rest: str) -> list[str]:
    """The words of an ENTRYPOINT or CMD in exec form."""
    decoded: list[str] = json.loads(rest)
    return decoded


def _before_stages() -> Iterator[tuple[str, str]]:
    for keyword, rest in _instructions():
        if keyword == "FROM":
            return
        yield keyword, rest


def _instructions() -> Iterator[tuple[str, str]]:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, _, rest = line.partition(" ")
            yield keyword, " ".join(rest.split())
