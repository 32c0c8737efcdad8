"""Parts: files under way, from their first byte to their place.

Order of writes, which survives a power cut at any instant:
  open    create, allocate, sync the file and its folder, then the row (allocating.py)
  write   only chunks that were verified
  durable sync the data, then the bits in one transaction
  finish  recompute the SHA-256, sync, note the place, rename, sync both folders, then the row
          (finishing.py)
What was written since a failed sync is missing again: a sync is never repeated and believed.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, RLock

from p2phub.digest import Digest
from p2phub.errors import NotHeld, StoreError, StoreFailed
from p2phub.paths import PART_FOLDER
from p2phub.store import bits
from p2phub.store.base import CHECKPOINT_BYTES, CHECKPOINT_S, ObjectState
from p2phub.store.file_system import failures
from p2phub.store.holdings import Holdings
from p2phub.store.objects import StoredObject
from p2phub.store.packs import Location, numbers
from p2phub.store.rows import SegmentRow
from p2phub.store.sampling import samples

WRITERS_MAX = 64  # parts open for writing; the one opened longest ago is synced and closed

Durable = list[tuple[Digest, "array[int]"]]


class Parts:
    """All parts of one store."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._lock = Lock()  # guards the four below
        self._dirty: dict[int, StoredObject] = {}
        self._dirty_bytes = 0
        self._dirty_since: float | None = None  # by the clock of who asks `is_due`
        self._packed: dict[Digest, list[tuple[Digest, int]]] = {}  # chunk in a pack: pages, indexes
        self.exclusive = RLock()  # one checkpoint, open, finish or drop at a time
        self._packing = RLock()  # one sync of the packs at a time; taken after exclusive
        self._writers: dict[int, StoredObject] = {}  # open for writing, by id; oldest first
        self._durable: Durable = []  # not yet reported

    # ---- write

    def write(
        self,
        object: StoredObject,
        segment: SegmentRow,
        start: int,
        stop: int,
        offset: int,
        data: memoryview,
    ) -> None:
        """Verified chunks [start, stop) of a segment, which lie at `offset` of the file."""
        with object.lock:
            if (
                object.is_closing
                or object.row.kind != "part"
                or object.holds(segment.number, start, stop)
            ):
                return
            if object.row.state is not ObjectState.PARTIAL:
                return
            if object.writer is not None:
                object.writing += 1
                writer = object.writer
            else:
                writer = -1
        if writer < 0:
            self._open_writer(object)
            return self.write(object, segment, start, stop, offset, data)
        is_failed = False
        try:
            self._holdings.files.write(writer, [data], offset, self._holdings.path(object))
            with object.lock:
                object.mark_written(segment, range(start, stop))
            with self._lock:
                self._dirty[object.row.id] = object
                self._dirty_bytes += len(data)
        except StoreFailed:
            is_failed = True
            raise
        finally:
            with object.lock:
                object.writing -= 1
                object.lock.notify_all()
            if is_failed:
                self._let_go(object, writer)

    def _let_go(self, object: StoredObject, writer: int) -> None:
        """After a refused write: the disk may come back as another one, which this descriptor
        never reaches; and what it was not yet asked to sync may be lost without a word.
        """
        with self.exclusive:
            if object.writer == writer:
                self.release(object)
                with object.lock:
                    object.forget_pending({})
                    self._holdings.replaced(object)  # nor read by: who holds a disk keeps it in

    def pack(self, page: Digest, chunks: Sequence[tuple[int, Digest, memoryview]]) -> None:
        """Verified chunks (entry of the page, name, bytes) that are files of their own."""
        held = self._holdings.index.in_packs([name for _, name, _ in chunks])
        new = [(name, data) for _, name, data in chunks if name not in held]
        if new:
            self._holdings.packs.append(new)
        with self._lock:
            for entry, name, data in chunks:
                self._packed.setdefault(name, []).append((page, entry))
                self._dirty_bytes += len(data)

    def is_due(self, now: float) -> bool:
        """See `Store.checkpoint_due`."""
        with self._lock:
            if not self._dirty and not self._packed:
                self._dirty_since = None
                return False
            if self._dirty_since is None:
                self._dirty_since = now
            return self._dirty_bytes >= CHECKPOINT_BYTES or now - self._dirty_since >= CHECKPOINT_S

    def _open_writer(self, object: StoredObject) -> None:
        with self.exclusive:
            if object.writer is not None or object.is_closing:
                return
            while len(self._writers) >= WRITERS_MAX:
                oldest = next(iter(self._writers.values()))
                self._checkpoint([oldest], [])
                self.release(oldest)
            path = self._holdings.path(object)
            try:
                writer = self._holdings.files.open(path, os.O_RDWR)
            except FileNotFoundError:
                self._holdings.check_mounted(path)
                self._holdings.withdraw(object, "was removed")
                raise NotHeld(f"{path} was removed", path=str(path)) from None
            with object.lock:
                object.writer = writer
            self._writers[object.row.id] = object

    def release(self, object: StoredObject) -> None:
        """Close an object's descriptor for writing, after those who write are done. With
        `exclusive` held: nobody else opens it anew meanwhile.
        """
        with object.lock:
            writer, object.writer = object.writer, None
            object.lock.wait_for(lambda: not object.writing)
        self._writers.pop(object.row.id, None)
        if writer is not None:
            self._holdings.files.close(writer)

    # ---- durable

    def checkpoint(self) -> Durable:
        """See `Store.checkpoint`."""
        with self.exclusive:
            self.sync()
            found, self._durable = self._durable, []
            return found

    def sync(self) -> None:
        """Make all that was written durable; the next checkpoint reports it."""
        with self.exclusive:
            with self._lock:
                dirty, self._dirty = list(self._dirty.values()), {}
                packed, self._packed = self._packed, {}
                self._dirty_bytes, self._dirty_since = 0, None
            self._checkpoint(dirty, list(packed.items()))

    def commit_packs(self) -> None:
        """Make what lies in the packs durable, and nothing else.

        What another thread made durable meanwhile is not done twice.
        """
        with self._packing:
            if self._holdings.packs.has_pending():
                chunks, ends = self._holdings.packs.sync()
                self._commit([], chunks, ends)

    def _checkpoint(
        self, objects: Iterable[StoredObject], packed: list[tuple[Digest, list[tuple[Digest, int]]]]
    ) -> None:
        """Sync, then commit; what the disk refused is missing again, the rest is durable, then the
        refusal is raised.
        """
        errors: list[StoreError] = []
        synced: list[tuple[StoredObject, dict[int, list[int]]]] = []
        for object in objects:
            with object.lock:
                pending, object.pending = object.pending, {}
                writer = object.writer
            if not any(pending.values()):
                continue
            try:
                self._sync_data(object, writer)
                synced.append((object, pending))
            except StoreError as error:
                errors.append(error)
                # Released first: what others are writing just now may be lost by this very sync,
                # and a later one would not say so.
                self.release(object)
                with object.lock:
                    object.forget_pending(pending)
                    self._holdings.replaced(object)
        with self._packing:
            in_packs = self._commit_checkpoint(synced, packed, errors)
        for object, pending in synced:
            with object.lock:
                object.mark_durable(pending)
            for number, indexes in pending.items():
                if indexes:
                    self._durable.append(
                        (object.segments[number].digest, array("I", sorted(indexes)))
                    )
        # Committed before, by another thread, unless its failed sync took them back.
        in_packs |= self._holdings.index.in_packs([n for n, _ in packed if n not in in_packs])
        by_page: dict[Digest, set[int]] = {}
        for name, entries in packed:
            if name in in_packs:
                for page, index in entries:
                    by_page.setdefault(page, set()).add(index)
        self._durable += [(page, array("I", sorted(some))) for page, some in by_page.items()]
        if errors:
            raise errors[0]

    def _sync_data(self, object: StoredObject, writer: int | None) -> None:
        files, path = self._holdings.files, self._holdings.path(object)
        if writer is not None:
            return files.sync_data(writer, path)
        # Closed to make room for others while somebody wrote: any descriptor syncs the same file.
        with failures(path):
            file = files.open(path, os.O_RDWR)
        try:
            files.sync_data(file, path)
        finally:
            files.close(file)

    def _commit_checkpoint(
        self,
        synced: list[tuple[StoredObject, dict[int, list[int]]]],
        packed: list[tuple[Digest, list[tuple[Digest, int]]]],
        errors: list[StoreError],
    ) -> set[Digest]:
        """What was in the packs and now is in the index, too."""
        chunks: dict[Digest, Location] = {}
        ends: dict[int, int] = {}
        try:
            chunks, ends = self._holdings.packs.sync()
        except StoreError as error:
            errors.append(error)
        if synced or chunks:
            try:
                self._commit(synced, chunks, ends)
            except StoreError:
                # The data is on the disk; only the word of it is not. The next checkpoint says it.
                with self._lock:
                    for object, pending in synced:
                        self._dirty[object.row.id] = object
                        with object.lock:
                            for number, indexes in pending.items():
                                object.pending.setdefault(number, []).extend(indexes)
                    for name, entries in packed:
                        self._packed.setdefault(name, []).extend(entries)
                raise
        return set(chunks)

    def _commit(
        self,
        synced: list[tuple[StoredObject, dict[int, list[int]]]],
        chunks: dict[Digest, Location],
        ends: dict[int, int],
    ) -> None:
        with self._holdings.index.transaction() as change:
            change.add_chunks(chunks.items(), ends)
            for object, pending in synced:
                rows = []
                for number, indexes in pending.items():
                    segment = object.segments[number]
                    some = bits.of(indexes, segment.chunk_count)
                    if number in object.durable:
                        some = bits.union(some, object.durable[number])
                    rows.append((number, some))
                    change.add_samples(object.row.id, samples(self._holdings, segment, indexes))
                change.put_bits(object.row.id, rows)
        self._holdings.packs.committed(chunks, ends)

    # ---- drop

    def discard(self, object: StoredObject) -> None:
        """See `Store.discard_part`."""
        with self.exclusive:
            with object.lock:
                if object.is_closing or object.row.state is ObjectState.COMPLETE:
                    return
            with self.abandoning([object]), self._holdings.index.transaction() as change:
                change.drop_object(object.row.id)
            self._holdings.dropped(object)
            if object.row.kind == "part":
                path = self._holdings.path(object)
                self._holdings.files.remove(path)
                remove_empty(path.parent)

    @contextmanager
    def abandoning(self, objects: Sequence[StoredObject]) -> Iterator[None]:
        """With `exclusive` held, while their rows are dropped: nothing more is written to these
        objects. They go on as they were if the disk refuses.
        """
        for object in objects:
            with object.lock:
                object.is_closing = True
            self.release(object)
            with self._lock:
                self._dirty.pop(object.row.id, None)
        try:
            yield
        except StoreError:
            for object in objects:
                with object.lock:
                    object.is_closing = False
                    object.lock.notify_all()
            raise

    def stray_packs(self) -> list[int]:
        """Packs that neither the index nor a writer knows: what a refusal or a crash left."""
        with self._packing:
            in_use = self._holdings.packs.in_use() | set(self._holdings.index.pack_ends())
            with failures(self._holdings.folder.packs):
                found = numbers(os.listdir(self._holdings.folder.packs))
        return [number for number in found if number not in in_use]

    def move_in_packs(
        self, chunks: Sequence[tuple[Digest, bytes]], old: Mapping[Digest, Location]
    ) -> None:
        """Append verified chunks again and let the index point there. old: where they lay."""
        with self._packing:
            self._holdings.packs.append(chunks)
            pending, ends = self._holdings.packs.sync()
            moves = [(name, old[name], pending[name]) for name, _ in chunks if name in pending]
            with self._holdings.index.transaction() as change:
                change.add_chunks(pending.items(), ends)
                change.move_chunks(moves)
            self._holdings.packs.committed(pending, ends)

    def close(self) -> None:
        with self.exclusive:
            try:
                self.sync()
            finally:
                for object in list(self._writers.values()):
                    self.release(object)


def remove_empty(folder: Path) -> None:
    """Take away the hidden folder of parts once nothing is in it."""
    if folder.name == PART_FOLDER:
        try:
            os.rmdir(folder)
        except OSError:
            pass  # other parts are in it, or it is gone
