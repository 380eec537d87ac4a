"""The command line, ``gpu-reconciler``."""

from reconciler.cli.entry import main

__all__ = ["main"]
