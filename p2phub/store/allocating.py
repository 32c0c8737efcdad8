"""Making room for parts: create, allocate, sync the file and its folder, then the row.

Nothing is begun that the disk has no room for. A crash in between leaves a file that no row names:
the next opening replaces it.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from p2phub.digest import Digest
from p2phub.errors import NotHeld, StoreError, StoreFull
from p2phub.paths import part_in
from p2phub.proto.content import ObjectRecord
from p2phub.store.base import ObjectState
from p2phub.store.file_system import failures
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Journal, part
from p2phub.store.objects import StoredObject, segment_rows
from p2phub.store.parts import Parts
from p2phub.store.rows import ObjectRow

HEADROOM_BYTES = 64 << 20  # left free on the disk, for the index and for others


class Allocating:
    """Makes room for the parts of one store."""

    def __init__(self, holdings: Holdings, journal: Journal, parts: Parts) -> None:
        self._holdings = holdings
        self._journal = journal
        self._parts = parts

    def open(self, name: Digest, folder: Path | None) -> None:
        """See `Store.open_part`."""
        self._holdings.keeping.note([name])
        with self._parts.exclusive:
            object = self._holdings.objects.named(name)
            if object is not None and object.is_whole:
                return
            if object is not None and object.row.state is ObjectState.PARTIAL:
                if object.row.kind != "part":
                    self._copy_damaged(object)
                else:
                    with failures(self._holdings.path(object)):
                        os.utime(self._holdings.path(object))  # it is in use again
                return
            record = ObjectRecord.decode(self._holdings.get(name))
            segments = segment_rows(record)
            path = part_in(folder, name) if folder is not None else None
            self._create(path or self._holdings.folder.part(name), record.size)
            if path is not None:
                self._journal.append([part(name, path)])
            row = ObjectRow(
                0, name, record.size, record.sha256, record.chunk_count, ObjectState.PARTIAL,
                "part", path, None, None,
            )  # fmt: skip
            with self._holdings.index.transaction() as change:
                change.add_object(row, segments)
            if object is not None:
                self._holdings.dropped(object)
            self._holdings.objects.added(name, segments)

    def _copy_damaged(self, object: StoredObject) -> None:
        """Make a part of a whole file that lost chunks: its right chunks stay, and nobody else's
        file is written to.
        """
        files = self._holdings.files
        source, target = self._holdings.path(object), self._holdings.folder.part(object.row.digest)
        self._create(target, object.row.size)
        with failures(target):
            file = files.open(target, os.O_RDWR)
        try:
            old = files.open(source, os.O_RDONLY)
            try:
                if not files.clone(old, file, target):
                    files.copy(old, file, object.row.size, target)
            finally:
                files.close(old)
            files.sync(file, target)
        except FileNotFoundError:
            self._holdings.withdraw(object, "was removed")
            raise NotHeld(f"{source} was removed") from None
        finally:
            files.close(file)
        with object.lock:
            was_own = object.row.kind == "data"
            object.row = replace(object.row, kind="part", path=None, stamp=None)
            self._holdings.replaced(object)
        with self._holdings.index.transaction() as change:
            change.change_object(object.row)
        if was_own:
            files.remove(source)

    def _create(self, path: Path, size: int) -> None:
        files = self._holdings.files
        files.make_folder(path.parent)
        free = files.free_bytes(path.parent)
        if free < size + HEADROOM_BYTES:
            raise StoreFull(
                f"{size} bytes are needed at {path.parent} and"
                f" {max(0, free - HEADROOM_BYTES)} are free:"
                " nothing was begun; free some space and run the same command again",
                path=str(path.parent), needed=size, free=free,
            )  # fmt: skip
        files.remove(path)
        file = files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            files.allocate(file, size, path)
            files.sync(file, path)
        except StoreError:
            files.close(file)
            files.remove(path)
            raise
        files.close(file)
        files.sync_folder(path.parent)
