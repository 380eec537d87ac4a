"""Property tests: thousands of passes, whose logs nobody reads."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
