"""What all parts of the simulated kernel share: the tree, the device nodes, events, numbers, delays and faults."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gpusim.model.delays import Delays
from gpusim.model.faults import Faults
from gpusim.model.nodes import CharacterDevice, DeviceNodes
from gpusim.model.tree import Attribute, Tree, constant
from gpusim.model.uevent import Environment, Listener, Uevent, parse_synthetic


class Numbers:
    """Hands out the lowest free number of each kind, as the kernel's IDA and IDR do."""

    def __init__(self) -> None:
        self._taken: dict[str, set[int]] = {}
        self._lock = threading.Lock()

    def take(self, kind: str) -> int:
        """The lowest free number from 0, now taken."""
        with self._lock:
            taken = self._taken.setdefault(kind, set())
            number = next(number for number in itertools.count() if number not in taken)
            taken.add(number)
        return number

    def take_one_of(self, kind: str, candidates: Iterable[int]) -> int | None:
        """The first of the candidates that is free, now taken; None if none is."""
        with self._lock:
            taken = self._taken.setdefault(kind, set())
            for number in candidates:
                if number not in taken:
                    taken.add(number)
                    return number
        return None

    def give_back(self, kind: str, number: int) -> None:
        with self._lock:
            self._taken[kind].discard(number)

    def reset(self) -> None:
        """Everything is free again."""
        with self._lock:
            self._taken.clear()


class Kernel:
    """Services for the parts; no knowledge of any device."""

    def __init__(self, *, delays: Delays, faults: Faults, sleep: Callable[[float], None]) -> None:
        self.tree = Tree(faults)
        self.nodes = DeviceNodes()
        self.faults = faults
        self.delays = delays
        self.numbers = Numbers()
        self._sleep = sleep
        self._listeners: list[Listener] = []
        self._sequence = 0
        self._lock = threading.Lock()

    def wait(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call with every uevent, in order, from the thread that causes it. Returns the function that ends it."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, action: str, path: str, subsystem: str, environment: Environment) -> None:
        with self._lock:
            self._sequence += 1
            event = Uevent(
                action=action,
                devpath=f"/{path}",
                subsystem=subsystem,
                environment=dict(environment),
                sequence=self._sequence,
            )
            for listener in tuple(self._listeners):
                listener(event)

    def uevent_attribute(self, path: str, subsystem: str, environment: Callable[[], Environment]) -> Attribute:
        """A device's `uevent` file: shows its variables, and a write sends an event marked as synthetic."""

        def show() -> bytes:
            return "".join(f"{key}={value}\n" for key, value in environment().items()).encode()

        def store(data: bytes) -> None:
            action, extra = parse_synthetic(data)
            self.emit(action, path, subsystem, {**environment(), **extra})

        return Attribute(mode=0o644, show=show, store=store)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDevice:
    """A device of a class (drm, mei, vfio …) below its parent, with or without a device node."""

    path: str
    subsystem: str
    parent: str | None = None
    character: CharacterDevice | None = None
    node: str | None = None
    """Path of the device node below /dev; needs `character`."""
    type: str | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def environment(self) -> Environment:
        variables: dict[str, str] = {}
        if self.character is not None:
            variables |= {"MAJOR": str(self.character.major), "MINOR": str(self.character.minor)}
        if self.node is not None:
            variables["DEVNAME"] = self.node
        if self.type is not None:
            variables["DEVTYPE"] = self.type
        return variables

    def register(self, kernel: Kernel) -> None:
        """Make its directory, links and node, then say `add`."""
        tree = kernel.tree
        tree.add_directory(self.path)
        tree.add(f"{self.path}/uevent", kernel.uevent_attribute(self.path, self.subsystem, self.environment))
        tree.add_link(f"{self.path}/subsystem", f"class/{self.subsystem}")
        tree.add_link(f"class/{self.subsystem}/{self.name}", self.path)
        if self.parent is not None:
            tree.add_link(f"{self.path}/device", self.parent)
        if self.character is not None:
            number = f"{self.character.major}:{self.character.minor}"
            tree.add(f"{self.path}/dev", constant(number))
            tree.add_link(f"dev/char/{number}", self.path)
            if self.node is not None:
                kernel.nodes.add(self.node, self.character)
        kernel.emit("add", self.path, self.subsystem, self.environment())

    def unregister(self, kernel: Kernel) -> None:
        """Undo `register`, then say `remove`."""
        tree = kernel.tree
        if self.character is not None:
            tree.remove(f"dev/char/{self.character.major}:{self.character.minor}")
            if self.node is not None:
                kernel.nodes.remove(self.node)
        tree.remove(f"class/{self.subsystem}/{self.name}")
        tree.remove(self.path)
        kernel.emit("remove", self.path, self.subsystem, self.environment())
