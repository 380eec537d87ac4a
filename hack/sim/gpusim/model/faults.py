"""Fault rules: what goes wrong in the simulated kernel, when, and how often."""

from __future__ import annotations

import enum
import errno
import fnmatch
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from gpusim.model import kstrto


class Operation(enum.Enum):
    """Where a rule applies."""

    READ = "read"
    """Reading an attribute."""
    WRITE = "write"
    """One write(2) to an attribute. With a delay the store hangs; sriov_numvfs then blocks its readers too."""
    PROBE = "probe"
    """A driver binding to a function."""
    ENABLE = "enable"
    """The driver turning on virtual functions, after the PCI core's own checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """One rule; the first rule that applies to an operation decides. Raises ValueError if it makes no sense."""

    on: Operation
    path: str = "*"
    """Glob over the path below the sysfs root, links resolved: */0000:03:00.0/sriov_numvfs."""
    device: str | None = None
    """PCI address: the function concerned, or the one the attribute belongs to."""
    vf: int | None = None
    """With on=probe: only this virtual function (from 0) of `device`."""
    error: str | None = None
    """Name of an errno (EIO). Without it the operation goes on after the delay."""
    delay: float = 0.0
    """Seconds before the operation."""
    vfs: int | None = None
    """With on=enable: the driver enables at most so many."""
    then: str | None = None
    """A command (see gpusim.commands) run when the operation is over, whatever came of it."""
    then_after: float = 0.0
    """Seconds from the end of the operation to the command; 0 = before the operation returns."""
    after: int = 0
    """Leave the first so many matching operations alone."""
    count: int | None = None
    """Apply to so many operations, then never again. None = for ever."""
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.error is not None and not hasattr(errno, self.error):
            raise ValueError(f"error: {self.error!r} is not the name of an errno")
        if self.vf is not None and (self.on is not Operation.PROBE or self.device is None):
            raise ValueError("vf: only with on: probe and the device (the physical function)")
        if self.vfs is not None and self.on is not Operation.ENABLE:
            raise ValueError("vfs: only with on: enable")
        if min(self.delay, self.then_after, self.after, self.count or 0, self.vfs or 0, self.vf or 0) < 0:
            raise ValueError("delay, then_after, after, count, vf and vfs may not be negative")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability: {self.probability} is not within 0 … 1")
        if self.error is None and not self.delay and self.vfs is None and self.then is None:
            raise ValueError("a rule needs error, delay, vfs or then")

    def concerns(self, operation: Operation, path: str, vf: int | None) -> bool:
        if operation is not self.on or self.vf not in (None, vf):
            return False
        if self.device is not None and f"/{self.device}/" not in f"/{path}/":
            return False
        return fnmatch.fnmatchcase(path, self.path)


class Faults:
    """The rules in force. Safe to use from several threads."""

    def __init__(self, *, seed: int, sleep: Callable[[float], None], run: Callable[[str], None]) -> None:
        self._random = random.Random(seed)
        self._sleep = sleep
        self._run = run
        self._lock = threading.Lock()
        self._rules: list[tuple[FaultRule, int]] = []

    def add(self, *rules: FaultRule) -> None:
        """Append rules; earlier ones win."""
        with self._lock:
            self._rules.extend((rule, 0) for rule in rules)

    def clear(self) -> None:
        """Drop all rules; what hangs stays until its delay is over."""
        with self._lock:
            self._rules.clear()

    def match(self, operation: Operation, path: str, vf: int | None = None) -> FaultRule | None:
        """The rule that applies to this operation, counted as used."""
        if not self._rules:
            return None
        with self._lock:
            for index, (rule, seen) in enumerate(self._rules):
                if not rule.concerns(operation, path, vf):
                    continue
                self._rules[index] = (rule, seen + 1)
                over = rule.count is not None and seen >= rule.after + rule.count
                if seen < rule.after or over or self._random.random() >= rule.probability:
                    continue
                return rule
        return None

    def strike(self, rule: FaultRule, what: str) -> None:
        """Wait and raise as the rule says."""
        if rule.delay:
            self._sleep(rule.delay)
        if rule.error is not None:
            kstrto.fail(getattr(errno, rule.error), what)

    def finish(self, rule: FaultRule) -> None:
        """Run the rule's command, now or later."""
        if rule.then is None:
            return
        if not rule.then_after:
            self._run(rule.then)
            return
        timer = threading.Timer(rule.then_after, self._run, [rule.then])
        timer.daemon = True
        timer.start()
