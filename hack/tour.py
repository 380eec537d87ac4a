"""A guided tour: a node with simulated GPUs follows a desired-state file while people edit it.

The simulated kernel stands in for /sys in a mount and network namespace of its own. What runs there is the
unmodified `gpu-reconciler run`, hearing genuine kernel events.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HEADER = "apiVersion: gpu.dra.intel.com/v1alpha1\nkind: GpuNodeState\n"
FLEX = "0000-1a-00-0-0x56c0"
B50 = "0000-a9-00-0-0xe212"
PATIENCE = 90.0

FIRST = f"""\
spec:
  manualAllocations:
  - name: jupyter                         # a whole Arc B580
    devices: [{{device: 0000-c7-00-0-0xe20b}}]
  - name: transcode-1                     # a virtual function of the Flex 170, and another
    devices: [{{device: {FLEX}-m4-vf0}}]
  - name: transcode-2
    devices: [{{device: {FLEX}-m4-vf1}}]
  - name: vm                              # a fair share of the B50, for a virtual machine
    devices: [{{device: {B50}-fs4-vf0, kernelDriver: vfio}}]
  - name: render                          # half the memory of a Flex 140, shared
    devices: [{{device: 0000-29-00-0-0x56c1-shared, memory: 3Gi}}]
"""
TYPO = FIRST.replace("kernelDriver: vfio", "kernelDrive: vfio")
SMALLER = f"""\
spec:
  manualAllocations:
  - name: jupyter
    devices: [{{device: 0000-c7-00-0-0xe20b}}]
  - name: transcode-small                 # the Flex 170 is to be split into 8 instead of 4
    devices: [{{device: {FLEX}-m8-vf0}}]
"""
NOTHING = "spec: {}\n"


class Tour:
    """Runs inside the namespace, beside the agent."""

    def __init__(self, where: Path, *, quick: bool) -> None:
        self._file = where / "node.yaml"
        self._where = where
        self._quick = quick

    def run(self) -> None:
        """The stops of the tour, in order. Raises TimeoutError when the node doesn't come to where it should."""
        self._say("A server with eight Intel GPUs of many kinds. What is there?")
        self._show("discover")
        self._say("The agent is running, but it was told nothing yet. Now somebody writes a desired-state file:")
        self._write(FIRST)
        self._until("Ready", lambda status: self._condition(status, "Ready"))
        self._show("status")
        self._say("Somebody deletes all CDI specs. They come back:")
        self._delete_cdi_specs()
        self._until("repaired", lambda _: len(self._cdi_specs()) == 5)
        self._list_cdi_specs()
        self._say("A slip of the pen (kernelDrive). The last good state stays in force, and the status says why:")
        self._write(TYPO, show="kernelDrive:")
        self._until("Stalled", lambda status: self._condition(status, "Stalled"))
        self._show("status", only="Stalled")
        self._say("The Flex 170 is to be split differently, while a process still uses one of its VFs:")
        with self._using_a_vf() as pid:
            print(f"  process {pid} has the render node of transcode-1 open", flush=True)
            self._write(SMALLER)
            self._until("Blocked", lambda status: self._has_blocked(status, FLEX))
            self._show("explain", FLEX)
        self._say("That process has ended. The agent takes the old VFs down and makes the new ones:")
        self._until("Ready", lambda status: self._condition(status, "Ready"))
        self._show("status")
        self._say("Everything back to how it was found:")
        self._write(NOTHING)
        self._until("nothing left", self._is_idle)
        self._show("status")

    # -- what a person would do ----------------------------------------------------------------------------

    def _write(self, spec: str, show: str | None = None) -> None:
        self._file.write_text(HEADER + spec)
        lines = [line for line in spec.splitlines() if show is None or show in line]
        print(f"\n  {self._file}:")
        print(textwrap.indent("\n".join(lines), "  | "), flush=True)

    def _show(self, *words: str, only: str | None = None) -> None:
        print(f"\n$ gpu-reconciler {shlex.join(words)}", flush=True)
        output = self._cli(*words)
        lines = [line for line in output.splitlines() if only is None or only in line]
        print("\n".join(lines), flush=True)
        self._pause(2.0)

    def _say(self, text: str) -> None:
        print(f"\n\n## {text}", flush=True)
        self._pause(1.0)

    def _pause(self, seconds: float) -> None:
        if not self._quick:
            time.sleep(seconds)

    def _cdi_specs(self) -> list[Path]:
        return sorted((self._where / "cdi").glob("intel.com-gpu_*.json"))

    def _delete_cdi_specs(self) -> None:
        for spec in self._cdi_specs():
            spec.unlink()
        print(f"\n$ rm {self._where}/cdi/*.json", flush=True)

    def _list_cdi_specs(self) -> None:
        print(f"\n$ ls {self._where}/cdi")
        for spec in self._cdi_specs():
            names = [device["name"] for device in json.loads(spec.read_text())["devices"]]
            print(f"{spec.name:45} {', '.join(names)}")
        sys.stdout.flush()

    @contextlib.contextmanager
    def _using_a_vf(self) -> Iterator[int]:
        spec = json.loads((self._where / "cdi" / "intel.com-gpu_alloc-transcode-1.json").read_text())
        nodes = [node for device in spec["devices"] for node in device["containerEdits"]["deviceNodes"]]
        render = next(node for node in nodes if "renderD" in node["path"])
        with open(render["hostPath"], "rb") as node:
            holder = subprocess.Popen(["sleep", "infinity"], stdin=node)
        try:
            yield holder.pid
        finally:
            holder.kill()
            holder.wait()

    # -- what the node says --------------------------------------------------------------------------------

    def _cli(self, *words: str) -> str:
        done = subprocess.run(["gpu-reconciler", *words], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def _until(self, what: str, holds: Callable[[dict[str, object]], bool]) -> None:
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE:
            with contextlib.suppress(json.JSONDecodeError):
                if holds(json.loads(self._cli("status", "-o", "json"))):
                    print(f"\n  ... {what} after {time.monotonic() - began:.1f} s", flush=True)
                    return
            time.sleep(0.1)
        raise TimeoutError(f"not {what} after {PATIENCE:.0f} s:\n{self._cli('status')}")

    def _condition(self, status: dict[str, object], kind: str) -> bool:
        conditions = _dicts(_dict(status["status"]).get("conditions"))
        return any(one["type"] == kind and one["status"] == "True" for one in conditions)

    def _has_blocked(self, status: dict[str, object], what: str) -> bool:
        plan = _dict(_dict(status["status"]).get("plan"))
        return any(one["what"] == what for one in _dicts(plan.get("blocked")))

    def _is_idle(self, status: dict[str, object]) -> bool:
        node = _dict(status["status"])
        enabled = [_dict(device.get("sriov")).get("enabled", 0) for device in _dicts(node.get("devices"))]
        return self._condition(status, "Ready") and not node.get("allocations") and not any(enabled)


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


@contextlib.contextmanager
def running_agent(where: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`gpu-reconciler run` on the machine of this namespace, logging to a file."""
    words = ["gpu-reconciler", "run", "-f", str(where / "node.yaml"), "--linger-seconds", "2"]
    with open(where / "agent.log", "wb") as log:
        # All users of these GPUs are children of ours, so they can be seen wherever this runs.
        agent = subprocess.Popen([*words, "--processes", "visible"], stderr=log)
        try:
            yield agent
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()


def inside(options: argparse.Namespace) -> int:
    """The part that runs in the namespace."""
    with running_agent(options.at):
        try:
            Tour(options.at, quick=options.quick).run()
        except TimeoutError as error:
            print(f"\n{error}\n\nThe agent's log:\n{(options.at / 'agent.log').read_text()}", file=sys.stderr)
            return 1
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            return 0
        print(f"\n\n## Now you: edit {options.at}/node.yaml in another terminal. Ctrl-C ends.\n")
        with contextlib.suppress(KeyboardInterrupt):
            follow()
    return 0


def follow() -> None:
    """Print the status whenever it says something new."""
    last = ""
    while True:
        now = subprocess.run(["gpu-reconciler", "status"], capture_output=True, text=True, check=False).stdout
        if now != last:
            print(f"\n{'-' * 80}\n{now}", flush=True)
            last = now
        time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """The tour; starts the simulated kernel and itself again inside of it."""
    parser = argparse.ArgumentParser(prog="hack/demo", description=__doc__)
    parser.add_argument("--machine", default="mixed", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="no pauses for reading")
    parser.add_argument("--at", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.quick = options.quick or not sys.stdout.isatty()
    if options.at is not None:
        return inside(options)
    with tempfile.TemporaryDirectory(prefix="gpu-demo-") as where:
        again = [sys.executable, __file__, "--at", where, *(["--quick"] if options.quick else [])]
        simulate = ["gpu-simulate", options.machine, "--at", where, "--realistic", "--namespace"]
        with contextlib.suppress(KeyboardInterrupt):
            return subprocess.run([*simulate, "--", *again], check=False, env=os.environ).returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
