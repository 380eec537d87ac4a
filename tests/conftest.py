"""For every test: Hypothesis profiles, markers that skip with a reason, a look at what is left running.

``--hypothesis-profile=night`` looks at 2,000 examples wherever a test doesn't say how many.
"""

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.left_running import running, started_since

settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.register_profile("night", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile("ci" if "CI" in os.environ else "dev")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here, and say why."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("fuse") and (reason := _why_no_fuse()):
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail a test whose threads or child processes outlive it by two seconds."""
    before = running()
    yield
    left = started_since(before, patience_seconds=2)
    if left:
        pytest.fail("left running: " + "; ".join(left), pytrace=False)


def _why_no_fuse() -> str | None:
    if not shutil.which("fusermount3"):
        return "needs fusermount3 (Debian package fuse3)"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"needs /dev/fuse: {error.strerror}"
    return None
