"""One target under atheris (libFuzzer), which looks at what code an input reaches and goes on from there.

Arguments: the target's name, a directory for what it learns, and libFuzzer's options.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["state", "reconciler"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.corpora import corpus


def main() -> None:
    """Ends with libFuzzer's exit status: not 0 when it found something, which it then wrote to a file."""
    target, learnt, *options = sys.argv[1:]
    for name, data in corpus(target).items():
        Path(learnt, f"kept-{name}").write_bytes(data)
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="gpu-fuzz-") as scratch:
        atheris.Setup([sys.argv[0], learnt, *options], TARGETS[target](Path(scratch)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
