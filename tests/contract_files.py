"""Contract files: facts recorded from the outside world, kept compressed in `tests/contracts`.

Their originals live outside the repository, in `../shared/contracts`. To add or renew copies:
`python -m tests.contract_files hardware/devices.yaml cdi/schema.json`
"""

import functools
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
COPIES = REPOSITORY / "tests" / "contracts"
ORIGINALS = REPOSITORY.parent / "shared" / "contracts"


def copied_paths() -> tuple[str, ...]:
    """The contract-relative paths of all copies, sorted."""
    return tuple(sorted(p.relative_to(COPIES).as_posix().removesuffix(".gz") for p in COPIES.rglob("*.gz")))


def copy_of(path: str) -> Path:
    """Where the copy of a contract file is."""
    return COPIES / f"{path}.gz"


@functools.cache
def read_text(path: str) -> str:
    """A contract file's text; `path` is relative to the contracts, as in "cdi/schema.json"."""
    return gzip.decompress(copy_of(path).read_bytes()).decode()


def read_json(path: str) -> Any:
    """A JSON contract file, decoded anew for each caller."""
    return json.loads(read_text(path))


def read_yaml(path: str) -> Any:
    """A YAML contract file, decoded anew for each caller."""
    return yaml.load(read_text(path), Loader=yaml.CSafeLoader)


def renew_copy(path: str) -> None:
    """Compress the original into its copy; the same input gives the same bytes."""
    copy_of(path).parent.mkdir(parents=True, exist_ok=True)
    copy_of(path).write_bytes(gzip.compress((ORIGINALS / path).read_bytes(), mtime=0))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        renew_copy(argument)
