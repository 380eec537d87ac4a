"""Generates plugin/pb from the .proto files: ``hack/gen-proto``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def generate(into: Path) -> None:
    """Write plugin/pb below ``into``. Raises CalledProcessError; protoc says on stderr what is wrong.

    The proto folder is mapped to plugin/pb: generated modules then import one another by their real names, and
    every file is known to the protobuf runtime by a path of its own, which it insists on.
    """
    sources = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "proto").rglob("*.proto"))
    out = (f"--python_out={into}", f"--pyi_out={into}")
    command = (sys.executable, "-m", "grpc_tools.protoc", "-Iplugin/pb=proto", *out, *sources)
    subprocess.run(command, cwd=REPOSITORY, check=True)


if __name__ == "__main__":
    generate(REPOSITORY)
