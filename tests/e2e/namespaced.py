"""A simulated machine that is /sys in namespaces of its own, and unmodified daemons running in there.

What the daemons hear are genuine kernel events of that network namespace. With an hour between resyncs, whatever
they follow they have heard of.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import yaml

from gpusim import control
from state.status import AllocationStatus, DeviceStatus, NodeStatus, condition_of, decode_status

PATIENCE = 60.0
"""Seconds until a test gives up waiting; nothing here takes more than a few."""

_PROGRAM = [sys.executable, "-m", "reconciler.cli"]
_SIMULATOR = [sys.executable, "-m", "gpusim"]
_REPOSITORY = Path(__file__).parents[2]
_IMPORTS = f"{_REPOSITORY}:{_REPOSITORY / 'hack/sim'}"
_STAY = 'echo $$ > "$0.new" && mv "$0.new" "$0" && exec sleep infinity'


def until[T](what: str, found: Callable[[], T | None | bool], process: subprocess.Popen[bytes] | None = None) -> T:
    raise NotImplementedError
