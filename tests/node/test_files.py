"""The node's own small files on a disk that refuses."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2phub.errors import StoreFailed, StoreFull
from p2phub.node.files import read_json, try_write, write_durably


@contextmanager
def no_room() -> Iterator[None]:
    """No file may grow, which the system says as it says of a full disk. Not as a fixture: the
    test's own result may be written to a file before one ends.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_can_be_made_anew_is_given_up_where_there_is_no_room(tmp_path: Path) -> None:
    with no_room():
        with pytest.raises(StoreFull):
            write_durably(tmp_path / "kept.json", b"[1]")
        try_write(tmp_path / "kept.json", b"[1]")
    assert list(tmp_path.iterdir()) == []


def test_what_can_be_made_anew_is_given_up_where_its_folder_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed):
        write_durably(tmp_path / "gone" / "kept.json", b"[1]")
    try_write(tmp_path / "gone" / "kept.json", b"[1]")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    try_write(tmp_path / "kept.json", b"[1]")
    assert read_json(tmp_path / "kept.json", 10) == [1]
    assert read_json(tmp_path / "kept.json", 2) is None
    assert read_json(tmp_path / "other.json", 10) is None
