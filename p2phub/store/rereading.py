"""Reading users' files again that were touched: their size and time are as recorded, and their time
of change is not, as after chmod, a new hard link or a move.

Until every byte was read and compared nothing of them is held. A little at a time, so that who asks
decides how much of the disk's time it takes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from p2phub.digest import Sha256
from p2phub.errors import StoreFailed
from p2phub.store.base import ObjectState, Reread
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Journal, adopted
from p2phub.store.rebuild import Rebuild
from p2phub.store.rows import ObjectRow
from p2phub.store.stamps import FileStamp

ROWS_AT_ONCE = 1024  # looked at by stat in one step
READ_BYTES = 1 << 20  # at a time
SETTLED_S = 2.0  # since the last change: a later one shows in the time of change then


@dataclass(slots=True)
class _File:
    """One file under way."""

    row: ObjectRow
    path: Path
    stamp: FileStamp  # of the file now
    sha256: Sha256 = field(default_factory=Sha256)
    offset: int = 0


class Rereading:
    """Reads the touched files of one store, one after another."""

    def __init__(self, holdings: Holdings, journal: Journal) -> None:
        self._holdings = holdings
        self._journal = journal
        self._rebuild = Rebuild(holdings, journal)
        self._lock = Lock()
        self._file: _File | None = None
        self._looked_id = 0  # of the last object looked at in this round

    def step(self, size_max: int, now_s: float) -> Reread:
        """See `Store.reread`."""
        with self._lock:
            if self._file is None and not self._find(now_s):
                return Reread(0, (), (), self._looked_id == 0)
            assert self._file is not None
            file = self._file
            try:
                read_bytes = self._read(file, size_max)
            except (StoreFailed, FileNotFoundError):
                read_bytes = 0  # it went, or is another one now
            if read_bytes and file.offset < file.row.size:
                return Reread(read_bytes, (), (), False)
            self._file = None
            if read_bytes and self._believe(file):
                return Reread(read_bytes, (file.row.digest,), (), False)
            changed = () if _is_touched_only(file) and not read_bytes else (file.path,)
            return Reread(read_bytes, (), changed, False)

    def _find(self, now_s: float) -> bool:
        """Begin with the next file, among the next rows."""
        index = self._holdings.index
        rows = index.adopted_after(self._looked_id, ROWS_AT_ONCE, is_changed=True)
        for id, path, stamp in rows:
            self._looked_id = id
            try:
                now = FileStamp.of(os.lstat(path))
            except OSError:
                continue
            is_settled = abs(now_s - now.changed_ns / 1e9) >= SETTLED_S
            if stamp is None or not stamp.is_touched_only(now) or not is_settled:
                continue
            row = index.object(id)
            if row is not None and row.state is ObjectState.CHANGED:
                self._file = _File(row, path, now)
                return True
        if len(rows) < ROWS_AT_ONCE:
            self._looked_id = 0
        return False

    def _read(self, file: _File, size_max: int) -> int:
        """Hash some more; how many bytes. 0: it is not the file any more that was begun with."""
        files, done = self._holdings.files, 0
        descriptor = files.open(file.path, os.O_RDONLY)
        try:
            buffer = memoryview(bytearray(READ_BYTES))
            while done < size_max and file.offset < file.row.size:
                got = files.read(descriptor, buffer, file.offset, file.path)
                if not got:
                    return 0
                file.sha256.update(buffer[:got])
                file.offset += got
                done += got
            if file.offset >= file.row.size:
                files.sync(descriptor, file.path)  # a power cut takes the new stamp back otherwise
            is_same = FileStamp.of(files.status(descriptor, file.path)) == file.stamp
            return done if is_same else 0
        finally:
            files.close(descriptor)

    def _believe(self, file: _File) -> bool:
        """Hold a file again that was read whole, if it is what it was."""
        row, index = file.row, self._holdings.index
        if file.sha256.digest() == row.sha256:
            self._journal.append([adopted(row, file.path, file.stamp)])
            return self._rebuild.again(row.digest, file.path, "adopted", file.stamp)
        object = self._holdings.objects.get(row.id)
        if object is not None and object.row.state is ObjectState.CHANGED:
            # Times say nothing about it from now on, and it is not read at every round.
            with object.lock:
                object.row = replace(object.row, stamp=None)
            with index.transaction() as change:
                change.change_object(object.row)
        return False


def _is_touched_only(file: _File) -> bool:
    """Whether another round may find the file right."""
    try:
        now = FileStamp.of(os.lstat(file.path))
    except OSError:
        return True  # away, perhaps
    return file.stamp.is_touched_only(now)
