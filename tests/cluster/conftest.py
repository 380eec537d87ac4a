"""A cluster is dear: tests of one module share one."""

import gc
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
    gc.collect()  # what the simulated server left behind is complained of here, not in some later test
    shutil.rmtree(where)
