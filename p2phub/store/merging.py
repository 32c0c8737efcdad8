"""Bringing a finished tree into a folder of the user's: whole folders by one rename where none of
their name is there, else what is in them, one by one. Nothing is ever replaced, no link followed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2phub.store.file_system import FileSystem, failure, failures

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def merge_tree(files: FileSystem, source: Path, target: Path) -> None:
    """Move all that lies in `source` to the same place in `target`, durably. The contents of
    `source` and all names in it are durable before.

    Raises FileExistsError, with the path in `filename`, at the first name that is taken; what was
    moved until then stays.
    """
    with failures(source):
        first = os.open(source, _FOLDER)
    try:
        with failures(target):
            second = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _merge(files, first, second, target)
        finally:
            os.close(second)
    finally:
        os.close(first)


def _merge(files: FileSystem, source: int, target: int, where: Path) -> None:
    with failures(where):
        names = sorted(os.listdir(source))
    for name in names:
        try:
            files.rename_new(name, name, source_folder=source, target_folder=target)
        except FileExistsError:
            with _both(source, target, name, where / name) as (first, second):
                _merge(files, first, second, where / name)
    files.sync_folder(where)


@contextmanager
def _both(source: int, target: int, name: str, where: Path) -> Iterator[tuple[int, int]]:
    """Two folders of one name. Raises FileExistsError unless both are folders."""
    first = _open_folder(name, source, where)
    try:
        second = _open_folder(name, target, where)
        try:
            yield first, second
        finally:
            os.close(second)
    finally:
        os.close(first)


def _open_folder(name: str, above: int, where: Path) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise failure(error, where) from error
        raise FileExistsError(None, None, str(where)) from None
