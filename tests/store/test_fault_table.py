"""Every call by which the store touches the disk meets every refusal: a clear error or another way,
and a store that lives on. Run with -s, or `python -m tests.store.fault_table`, to see the table.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.fault_table import FAULTS, UNHANDLED, page, table

SITES_MIN = 80


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: syncs only wait here."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def check(root: Path, faults: list[str]) -> None:
    found = table(root, faults)
    print(page(found), end="")
    assert len(found) > SITES_MIN
    unhandled = [
        f"{call} by {caller}, {fault}: {outcome}"
        for (call, caller), row in found.items()
        for fault, outcome in row.items()
        if UNHANDLED in outcome
    ]
    assert unhandled == []
    assert all(set(row) == set(faults) for row in found.values())


def test_a_bad_sector_at_any_place_is_said_and_survived(root: Path) -> None:
    check(root, ["bad sector"])


@pytest.mark.long
def test_every_refusal_at_any_place_is_said_and_survived(root: Path) -> None:
    check(root, list(FAULTS))
