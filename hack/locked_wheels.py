"""Lists the wheels for Linux in resolutions of uv (``pylock.toml``, PEP 751), as sha256sum would."""

import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

ARCHITECTURES = ("x86_64", "aarch64")


def wheels(resolution: Path) -> Iterator[tuple[str, str]]:
    """File name and SHA-256 of each wheel that some Python on Linux with glibc could use."""
    for package in tomllib.loads(resolution.read_text())["packages"]:
        for wheel in package.get("wheels", ()):
            name = wheel.get("name") or wheel["url"].rpartition("/")[2]
            if any(map(for_linux, parse_wheel_filename(name)[3])):
                yield name, wheel["hashes"]["sha256"]


def for_linux(tag: Tag) -> bool:
    return tag.platform == "any" or (tag.platform.startswith("manylinux") and tag.platform.endswith(ARCHITECTURES))


def main(resolutions: Sequence[str]) -> int:
    found = sorted({wheel for resolution in resolutions for wheel in wheels(Path(resolution))})
    print(*(f"{digest}  {name}" for name, digest in found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
