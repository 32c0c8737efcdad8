"""The stores that every contract test is run with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.store.base import Store
from p2phub.store.disk import DiskStore
from p2phub.store.memory import MemoryStore


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened: Store = DiskStore(tmp_path / "store") if request.param == "disk" else MemoryStore()
    yield opened
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the disk of these tests is simulated, real syncs only
    wait.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
