"""Which release this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The installed package's version; ``unreleased`` when run from a source tree."""
    try:
        return metadata.version("gpu-reconciler")
    except metadata.PackageNotFoundError:
        return "unreleased"
