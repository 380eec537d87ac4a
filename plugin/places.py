"""Where the plugin meets the kubelet and the node agent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Directories of one machine. All can be elsewhere in a container, a test or a simulation.

    ``run`` is shared with the node agent, ``kubelet`` is the kubelet's root directory.
    """

    run: Path = Path("/run/gpu.intel.com")
    kubelet: Path = Path("/var/lib/kubelet")
    procfs: Path = Path("/proc")

    @property
    def status_dir(self) -> Path:
        return self.run / "status"

    @property
    def status_file(self) -> Path:
        return self.status_dir / "status.json"

    @property
    def server_file(self) -> Path:
        """What the node agent found the API server to be, or remembers of it."""
        return self.status_dir / "server.json"

    @property
    def marks_dir(self) -> Path:
        return self.run / "marks"

    @property
    def lock_dir(self) -> Path:
        return self.run / "lock"

    @property
    def registry_dir(self) -> Path:
        """Where the kubelet looks for registration sockets."""
        return self.kubelet / "plugins_registry"

    @property
    def boot_id_file(self) -> Path:
        return self.procfs / "sys/kernel/random/boot_id"

    def plugin_dir(self, driver: str) -> Path:
        """Where the driver's own socket is."""
        return self.kubelet / "plugins" / driver

    def registered_lock(self, driver: str) -> Path:
        """Held, shared, by every plugin that the kubelet has registered for this driver."""
        return self.lock_dir / f"registered-{driver}"
