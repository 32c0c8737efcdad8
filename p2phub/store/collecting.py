"""Collecting what nothing names any more: mark, sweep in transactions that look again, then unlink.

Order, which survives a crash at any instant: mark; then, group by group, one transaction that looks
whether anything came to be kept meanwhile, drops the rows and notes the files as doomed; then the
unlinks; then the note goes. A start carries out what a crash left doomed. Files of the user's are
forgotten, never unlinked. Chunks in packs are dropped the same way, and packs that hold little else
are written anew (compacting.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from threading import Lock

from p2phub.digest import Digest
from p2phub.errors import StoreFailed
from p2phub.store.base import Collected, CollectedObject, ObjectState
from p2phub.store.compacting import Compacting
from p2phub.store.file_system import failures, own_bytes
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Journal, forgotten
from p2phub.store.marking import Marks
from p2phub.store.objects import StoredObject
from p2phub.store.packs import RECORD_HEADER_BYTES, Location
from p2phub.store.parts import Parts

OBJECTS_PER_COMMIT = 256
CHUNKS_PER_COMMIT = 4096


@dataclass(slots=True)
class _Tally:
    """What was found so far."""

    objects: list[CollectedObject] = field(default_factory=list)
    freed_bytes: int = 0
    chunk_count: int = 0
    forgotten_count: int = 0
    live_bytes: dict[int, int] = field(default_factory=dict)  # in each pack, headers included


class Collecting:
    """Collects for one store."""

    def __init__(self, holdings: Holdings, journal: Journal, parts: Parts) -> None:
        self._holdings = holdings
        self._journal = journal
        self._parts = parts
        self._compacting = Compacting(holdings, parts)
        self._lock = Lock()  # one collection at a time

    def collect(self, now_s: float, part_idle_s: float, *, is_dry_run: bool) -> Collected:
        """See `Store.collect`."""
        holdings, tally = self._holdings, _Tally()
        with self._lock, holdings.keeping.recording():
            # What is written is made durable first, so that no chunk is only in memory.
            self._parts.sync()
            marks = Marks(holdings.get, self._segments_of)
            self._mark(marks, now_s)
            ids = iter(holdings.index.object_ids())
            while group := list(islice(ids, OBJECTS_PER_COMMIT)):
                self._sweep_objects(group, marks, now_s, part_idle_s, tally, is_dry_run)
            for rows in self._chunk_pages():
                self._sweep_chunks(rows, marks, now_s, tally, is_dry_run)
            if not is_dry_run:
                with holdings.index.transaction() as change:
                    change.drop_leases(now_s)
                    change.forget_damaged(n for n in holdings.index.damaged() if n not in marks)
            tally.freed_bytes += self._compacting.run(tally.live_bytes, is_dry_run=is_dry_run)
        return Collected(
            tuple(tally.objects), tally.forgotten_count, tally.chunk_count, tally.freed_bytes
        )

    def redo(self) -> None:
        """Unlink what a crash left doomed. For the start."""
        for path in self._holdings.index.doomed():
            try:
                self._unlink([path])
            except StoreFailed:
                continue  # it stays doomed: its disk may be away, which is no reason not to start

    # ---- mark

    def _mark(self, marks: Marks, now_s: float) -> None:
        for root in self._releases():
            marks.add_root(root, is_release=True)
        for root in self._others(now_s):
            marks.add_root(root, is_release=False)

    def _releases(self) -> set[Digest]:
        return {release.manifest for release in self._holdings.index.releases()}

    def _others(self, now_s: float) -> set[Digest]:
        leased = {manifest for manifest, _, _ in self._holdings.index.leases(now_s)}
        return leased | self._holdings.keeping.roots()

    def _segments_of(self, name: Digest) -> list[Digest] | None:
        object = self._holdings.objects.named(name)
        return None if object is None else [segment.digest for segment in object.segments]

    # ---- sweep

    @contextmanager
    def _settled(self, marks: Marks, now_s: float) -> Iterator[None]:
        """A block in which nobody can come to keep anything, with all marked that is kept."""
        holdings = self._holdings
        while True:
            self._mark_new(marks, now_s)
            with holdings.keeping.lock, holdings.index.exclusive:
                if not (self._releases() | self._others(now_s)) - marks.roots:
                    yield
                    return

    def _mark_new(self, marks: Marks, now_s: float) -> None:
        for root in self._releases() - marks.roots:
            marks.add_root(root, is_release=True)
        for root in self._others(now_s) - marks.roots:
            marks.add_root(root, is_release=False)

    def _sweep_objects(
        self,
        ids: Sequence[int],
        marks: Marks,
        now_s: float,
        part_idle_s: float,
        tally: _Tally,
        is_dry_run: bool,
    ) -> None:
        holdings = self._holdings
        with self._parts.exclusive, holdings.sweeping:
            with self._settled(marks, now_s):
                victims = self._victims(ids, marks, now_s - part_idle_s)
                for object in victims:
                    row = object.row
                    is_own = row.kind != "adopted"
                    tally.objects.append(CollectedObject(row.digest, row.sha256, row.size))
                    tally.freed_bytes += own_bytes(holdings.path(object)) if is_own else 0
                    tally.forgotten_count += not is_own
                if is_dry_run or not victims:
                    return
                adopted = [object for object in victims if object.row.kind == "adopted"]
                own = [object for object in victims if object.row.kind != "adopted"]
                doomed = [holdings.path(object) for object in own]
                self._journal.append([forgotten(object.row) for object in adopted])
                with self._parts.abandoning(victims), holdings.index.transaction() as change:
                    for object in victims:
                        change.drop_object(object.row.id)
                    change.doom(doomed)
                for object in victims:
                    holdings.dropped(object)
                    with object.lock:
                        # Whoever still reads it is told that it is not held, not that it was
                        # removed.
                        object.row = replace(object.row, state=ObjectState.CHANGED)
            self._unlink(doomed)

    def _victims(self, ids: Sequence[int], marks: Marks, since_s: float) -> list[StoredObject]:
        """Which of these objects go. A part in use since `since_s` is marked instead."""
        found = []
        for id in ids:
            object = self._holdings.objects.get(id)
            if object is None:
                continue
            name = object.row.digest
            if name in marks or self._holdings.keeping.is_noted(name):
                continue
            if self._is_active(object, since_s):
                marks.add_object(name)
            else:
                found.append(object)
        return found

    def _is_active(self, object: StoredObject, since_s: float) -> bool:
        if object.row.kind != "part":
            return False
        if object.is_closing or object.writing:
            return True
        try:
            written_s = os.lstat(self._holdings.path(object)).st_mtime
        except OSError:
            return False
        return written_s > since_s

    def _sweep_chunks(
        self,
        rows: Sequence[tuple[Digest, Location]],
        marks: Marks,
        now_s: float,
        tally: _Tally,
        is_dry_run: bool,
    ) -> None:
        with self._settled(marks, now_s):
            dead = []
            for name, location in rows:
                if name in marks or self._holdings.keeping.is_noted(name):
                    size = location.length + RECORD_HEADER_BYTES
                    tally.live_bytes[location.pack] = tally.live_bytes.get(location.pack, 0) + size
                else:
                    dead.append(name)
            tally.chunk_count += len(dead)
            if is_dry_run or not dead:
                return
            with self._holdings.index.transaction() as change:
                change.drop_chunks(dead)
            for name in dead:
                self._holdings.pages.drop(name)

    def _chunk_pages(self) -> Iterator[list[tuple[Digest, Location]]]:
        last = b""
        while rows := self._holdings.index.chunks_after(last, CHUNKS_PER_COMMIT):
            yield rows
            last = rows[-1][0]

    def _unlink(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._holdings.files.remove(path)
        for folder in {path.parent for path in paths}:
            with failures(folder):
                is_there = folder.is_dir()
            if is_there:
                self._holdings.files.sync_folder(folder)
        if paths:
            with self._holdings.index.transaction() as change:
                change.undoom(paths)
