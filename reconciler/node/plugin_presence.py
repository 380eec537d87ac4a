"""Whether the kubelet could give claims back."""

from __future__ import annotations

from pathlib import Path

from reconciler.node.slice_registration import is_registered

_PREFIX = "registered-"


def is_any_registered(lock_dir: Path) -> bool:
    """Whether a kubelet plugin is registered for any driver; not known to be, where that can't be found out."""
    names = (path.name.removeprefix(_PREFIX) for path in lock_dir.glob(f"{_PREFIX}*"))
    return any(is_registered(lock_dir, driver) for driver in names)
