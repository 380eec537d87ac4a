"""Where the node agent finds the machine and keeps its files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """Directories of one machine. All can be elsewhere in a container, a test or a simulation.

    ``devfs`` also prefixes host paths in CDI specs when it is not ``/dev``, as in the existing Go driver.
    """

    sysfs: str = "/sys"
    devfs: str = "/dev"
    procfs: str = "/proc"
    cdi: str = "/var/run/cdi"
    run: str = "/run/gpu.intel.com"
    state: str = "/var/lib/gpu.intel.com"
    pci_ids: str = "/usr/share/misc/pci.ids"

    @property
    def status_dir(self) -> str:
        return f"{self.run}/status"

    @property
    def status_file(self) -> str:
        return f"{self.run}/status/status.json"

    @property
    def held_file(self) -> str:
        return f"{self.run}/status/held.json"

    @property
    def marks_dir(self) -> str:
        return f"{self.run}/marks"

    @property
    def server_file(self) -> str:
        return f"{self.run}/status/server.json"

    @property
    def lasting_server_file(self) -> str:
        return f"{self.state}/server.json"

    @property
    def lock_dir(self) -> str:
        return f"{self.run}/lock"

    @property
    def agent_lock(self) -> str:
        return f"{self.run}/lock/agent"

    @property
    def ownership_file(self) -> str:
        return f"{self.state}/ownership.json"

    @property
    def desired_file(self) -> str:
        return f"{self.state}/desired/node.json"
