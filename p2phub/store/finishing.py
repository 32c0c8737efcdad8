"""Finishing parts: from all chunks held to a whole file in its place, or to the reason why not.

Order, which survives a power cut at any instant: recompute the SHA-256, sync, note the place,
rename, sync both folders, then the row. A crash in between is understood by `settle`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from p2phub.digest import Digest, digest, sha256
from p2phub.errors import CorruptChunk, DestinationExists, DigestMismatch, NotHeld
from p2phub.paths import part_in
from p2phub.proto.manifest import FileRecord, document_kind
from p2phub.store.base import Method, ObjectState, Place, Placement
from p2phub.store.file_system import failures
from p2phub.store.hashing import PrefixHash
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Journal, adopted
from p2phub.store.objects import StoredObject
from p2phub.store.parts import Parts, remove_empty
from p2phub.store.rows import ObjectRow
from p2phub.store.stamps import FileStamp
from p2phub.store.trees import Tree

READ_BYTES = 1 << 20  # at a time, when a whole file is hashed


class Finishing:
    """Finishes the parts of one store."""

    def __init__(self, holdings: Holdings, journal: Journal, parts: Parts) -> None:
        self._holdings = holdings
        self._journal = journal
        self._parts = parts

    def finish(self, object: StoredObject, place: Place | None) -> Placement:
        """See `Store.finish`; the object was no complete one."""
        if not self._claim(object):
            return Placement(self._holdings.path(object))
        try:
            # Without the lock: other parts go on while this one is hashed.
            self._recompute(object)
            return self._move(object, place)
        finally:
            with object.lock:
                object.is_closing = False
                object.lock.notify_all()

    def _claim(self, object: StoredObject) -> bool:
        """Close a part to all others; False: it is complete. Waits while another thread finishes
        it. Raises NotHeld, DigestMismatch.
        """
        while True:
            with object.lock:
                object.lock.wait_for(lambda: not object.is_closing)
            with self._parts.exclusive:
                self._parts.sync()
                self.settle(object)
                with object.lock:
                    row = object.row
                    if object.is_closing:
                        continue  # another thread was faster: what it finds holds for us too
                    if row.state is ObjectState.COMPLETE:
                        return False
                    if row.state is ObjectState.CONDEMNED:
                        raise _mismatch(row, None)
                    if row.kind != "part" or not object.has_all():
                        name = row.digest.hex()
                        raise NotHeld(f"chunks of the object {name} are missing", object=name)
                    object.is_closing = True
                self._parts.release(object)
                return True

    def finish_single(self, name: Digest, object: StoredObject | None, path: str) -> FileRecord:
        """A file of one chunk is whole wherever its chunk lies; what is known of it now. object: a
        row of before, when it lay elsewhere. Raises NotHeld, CorruptChunk.
        """
        data = self._holdings.get(name)
        if object is None and document_kind(data) == "object":
            raise NotHeld(f"nothing is held of the object {name.hex()}", object=name.hex())
        record = FileRecord(path, len(data), sha256(data), name, 1)
        with self._holdings.index.transaction() as change:
            change.add_small_files([(record.sha256, name)])
            if object is not None:
                change.drop_object(object.row.id)
        if object is not None:
            self._holdings.dropped(object)
        return record

    def settle(self, object: StoredObject, *, is_anew: bool = False) -> None:
        """Understand what a crash or a refusal left of a part: renamed already, or gone.

        is_anew: one that is gone is begun anew also where all of its folder is gone. Otherwise that
        is a disk which is away: StoreFailed is raised, and nothing is forgotten.
        """
        with self._parts.exclusive:
            row, path = object.row, self._holdings.path(object)
            if row.state is not ObjectState.PARTIAL or row.kind != "part" or object.is_closing:
                return
            if _size_of(path) == row.size:
                return
            whole = self._holdings.folder.whole(row.digest)
            if row.target is not None and row.stamp is not None and _moved(row.target, row.stamp):
                with failures(row.target):
                    stamp = FileStamp.of(os.lstat(row.target))
                self._journal.append([adopted(row, row.target, stamp)])
                self._complete(object, kind="adopted", path=row.target, stamp=stamp)
            elif _size_of(whole) == row.size:
                self._complete(object, kind="data", path=None, stamp=None)
            else:
                if not is_anew:
                    self._holdings.check_mounted(path)
                self._parts.discard(object)

    def _recompute(self, object: StoredObject) -> None:
        """Raises DigestMismatch or CorruptChunk unless the SHA-256 is as the record says."""
        row = object.row
        prefix, object.prefix = object.prefix, None
        if prefix is not None and self._hash_rest(object, prefix) == row.sha256:
            return
        got = self._hash_rest(object, PrefixHash())
        if got == row.sha256:
            return
        damaged = self._clear_damaged(object)
        if damaged:
            raise CorruptChunk(
                f"{damaged} chunks of {row.digest.hex()} are not on the disk as they were written:"
                " they are fetched again; check the disk",
                object=row.digest.hex(), count=damaged,
            )  # fmt: skip
        with object.lock:
            object.row = replace(row, state=ObjectState.CONDEMNED)
        with self._holdings.index.transaction() as change:
            change.change_object(object.row)
            change.drop_bits(row.id)
        raise _mismatch(row, got)

    def _hash_rest(self, object: StoredObject, prefix: PrefixHash) -> bytes:
        """The SHA-256 of the file, of which `prefix` is hashed already."""
        buffer = memoryview(bytearray(READ_BYTES))
        with prefix.lock:
            for offset in range(prefix.offset, object.row.size, READ_BYTES):
                view = buffer[: min(READ_BYTES, object.row.size - offset)]
                if self._holdings.read(object, offset, view) < len(view):
                    break
                prefix.sha256.update(view)
            return prefix.sha256.digest()

    def _clear_damaged(self, object: StoredObject) -> int:
        """Compare every chunk with its name; how many are wrong and were cleared."""
        count = 0
        for segment in object.segments:
            page = self._holdings.segment_page(segment)
            for index, length in enumerate(page.lengths):
                data = bytearray(length)
                self._holdings.read(object, segment.offset + page.offsets[index], memoryview(data))
                if digest(data) != page.digest_of(index):
                    self._holdings.damaged(object, segment, index, bytes(data))
                    count += 1
        return count

    def _move(self, object: StoredObject, place: Place | None) -> Placement:
        """Bring a verified part to its place.

        The row names the place first, so that a crash in between is understood.
        """
        source = self._holdings.path(object)
        is_in_folder = place is not None and object.row.path == part_in(
            place.folder, object.row.digest
        )
        if not is_in_folder:
            return self._move_to_data(object, source)
        assert place is not None
        files = self._holdings.files
        target = place.folder / place.path
        with failures(source):
            writer = files.open(source, os.O_RDWR)
        try:
            files.sync(writer, source)
            stamp = FileStamp.of(files.status(writer, source))
        finally:
            files.close(writer)
        self._change(object, target=target, stamp=stamp)
        with Tree(files, place.folder) as tree, tree.parent_of(place.path) as (folder, name):
            try:
                files.rename_new(source, name, target_folder=folder)
            except FileExistsError:
                if not tree.equals(place.path, object.row.size, object.row.sha256):
                    self._change(object, target=None, stamp=None)
                    raise DestinationExists(
                        f"{target} exists with other content: nothing was overwritten",
                        path=str(target),
                    ) from None
                self._change(object, stamp=tree.stamp(place.path))
                files.remove(source)
                self._holdings.replaced(object)  # from now on the file that was there is read
            tree.sync_to(place.path)
            stamp = tree.stamp(place.path)
        files.sync_folder(source.parent)
        self._journal.append([adopted(object.row, target, stamp)])
        self._complete(object, kind="adopted", path=target, stamp=stamp)
        remove_empty(source.parent)
        return Placement(target, {Method.ADOPTED: 1}, 0)

    def _move_to_data(self, object: StoredObject, source: Path) -> Placement:
        files, row = self._holdings.files, object.row
        target = self._holdings.folder.whole(row.digest)
        files.make_folder(target.parent)
        with failures(source):
            writer = files.open(source, os.O_RDWR)
        try:
            files.set_mode(writer, 0o444, source)
            files.sync(writer, source)
        finally:
            files.close(writer)
        with self._holdings.sweeping:
            files.move(source, target, self._holdings.folder.scratch / row.digest.hex())
            files.sync_folder(target.parent)
            files.sync_folder(source.parent)
            remove_empty(source.parent)
            self._complete(object, kind="data", path=None, stamp=None)
        return Placement(target, {}, 0)

    def _change(self, object: StoredObject, **fields: object) -> None:
        with object.lock:
            object.row = replace(object.row, **fields)  # type: ignore[arg-type]
            row = object.row
        with self._holdings.index.transaction() as change:
            change.change_object(row)

    def _complete(self, object: StoredObject, **fields: object) -> None:
        done = {**fields, "state": ObjectState.COMPLETE, "target": None}
        row = replace(object.row, **done)  # type: ignore[arg-type]
        with self._holdings.index.transaction() as change:
            change.change_object(row)
            change.drop_bits(row.id)
        with object.lock:
            object.row = row
            object.written, object.durable, object.pending = {}, {}, {}


def _size_of(path: Path) -> int:
    """Bytes of a file; -1 if there is none. Raises StoreFailed where the disk does not say."""
    status = _status_of(path)
    return -1 if status is None else status.st_size


def _status_of(path: Path) -> os.stat_result | None:
    with failures(path):
        try:
            return os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


def _moved(path: Path, stamp: FileStamp) -> bool:
    """Whether the file at `path` is the one with `stamp`: a rename changes the time of change
    alone.
    """
    status = _status_of(path)
    return status is not None and stamp.is_touched_only(FileStamp.of(status))


def _mismatch(row: ObjectRow, got: bytes | None) -> DigestMismatch:
    name, claim = row.digest.hex(), row.sha256.hex()
    return DigestMismatch(
        f"the object {name} does not have the SHA-256 {claim} that its record states: its"
        " chunks are"
        " genuine but the statement is false; do not trust the release",
        object=name,
        sha256=claim,
        got=got.hex() if got else None,
    )
