"""Stores of every format that was ever released are opened; newer ones are left as they are."""

from __future__ import annotations

import shutil
import sqlite3
from array import array
from contextlib import closing
from pathlib import Path

import pytest

from p2phub.errors import StoreFailed, StoreNewer
from p2phub.store.base import ObjectState
from p2phub.store.disk import DiskStore
from p2phub.store.format import STORE_VERSION
from tests.store.format_fixture import (
    FOLDER,
    MANIFEST,
    PAGE,
    PART,
    PART_CHUNKS,
    SMALL,
    WHOLE,
)
from tests.store.sample_files import fetch, read_all

FORMATS = sorted(path.name for path in FOLDER.iterdir())


def check(store: DiskStore) -> None:
    assert store.get(MANIFEST.digest) == MANIFEST.encode()
    assert store.get(SMALL.object) == SMALL.data
    assert read_all(store, WHOLE) == WHOLE.data
    whole, part = store.status(WHOLE.object), store.status(PART.object)
    assert whole is not None and whole.state is ObjectState.COMPLETE
    assert part is not None and part.held_chunks == PART_CHUNKS
    assert store.missing(PART.pages[0]) == array("I")
    (release,) = store.releases()
    assert (release.manifest, release.name, release.is_pinned) == (MANIFEST.digest, "kept", True)


def test_todays_format_has_a_fixture() -> None:
    assert f"v{STORE_VERSION}" in FORMATS


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("index", ["there", "lost"])
def test_a_store_of_each_format_is_opened_and_goes_on(
    format: str, index: str, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    shutil.copytree(FOLDER / format, root)
    if index == "lost":
        (root / "index.db").unlink()
    store = DiskStore(root)
    check(store)
    fetch(store, PART)
    store.finish(PART.object)
    assert store.materialize(PAGE.files, tmp_path / "tree").extra_bytes >= 0
    store.close()
    store = DiskStore(root)
    assert read_all(store, PART) == PART.data
    store.close()


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file and folder below `root`: bytes and time of change."""
    return {
        str(path.relative_to(root)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
        )
        for path in [root, *root.rglob("*")]
    }


def test_a_newer_store_is_refused_unchanged(tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(FOLDER / f"v{STORE_VERSION}", root)
    (root / "VERSION").write_text(f"p2phub store {STORE_VERSION + 1}\n")
    before = contents(root)
    with pytest.raises(StoreNewer) as refused:
        DiskStore(root)
    assert refused.value.facts["version"] == STORE_VERSION + 1
    assert contents(root) == before


def test_a_newer_index_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(FOLDER / f"v{STORE_VERSION}", root)
    with closing(sqlite3.connect(root / "index.db")) as index:
        index.execute("PRAGMA user_version = 1000")
        index.commit()
    before = (root / "index.db").read_bytes()
    with pytest.raises(StoreNewer):
        DiskStore(root)
    assert (root / "index.db").read_bytes() == before


def test_a_version_that_is_none_is_refused_unchanged(tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(FOLDER / f"v{STORE_VERSION}", root)
    (root / "VERSION").write_text("another program's\n")
    before = contents(root)
    with pytest.raises(StoreFailed, match="not a version"):
        DiskStore(root)
    assert contents(root) == before
