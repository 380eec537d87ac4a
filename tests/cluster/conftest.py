"""A cluster is dear: tests of one module share one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab.cluster import Lab, opened


@pytest.fixture(name="lab", scope="module")
def fixture_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    where: Path = tmp_path_factory.mktemp("cluster")
    with opened(where) as lab:
        yield lab
    shutil.rmtree(where)
