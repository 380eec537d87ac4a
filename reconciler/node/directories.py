"""The directories that the node agent writes to."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.node.cdi_dir import sweep
from reconciler.node.roots import Roots
from reconciler.runtime.files import sweep_temporaries


def make_directories(roots: Roots) -> None:
    """Make what is missing. Raises OSError naming the directory."""
    desired, lock = os.path.dirname(roots.desired_file), os.path.dirname(roots.agent_lock)
    for path in (roots.status_dir, roots.marks_dir, lock, roots.state, desired, roots.cdi):
        os.makedirs(path, mode=0o755, exist_ok=True)


def sweep_directories(roots: Roots) -> None:
    """Remove what a killed agent left half written. Only for the one agent that holds the lock."""
    sweep(roots.cdi)
    sweep_temporaries(Path(roots.status_dir))
    sweep_temporaries(Path(roots.state))
    sweep_temporaries(Path(roots.desired_file).parent)
