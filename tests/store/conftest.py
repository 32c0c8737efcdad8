"""The stores that every contract test is run with."""

from __future__ import annotations

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
