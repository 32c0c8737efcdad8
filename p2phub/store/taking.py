"""Holding the user's files: a reflink of each into the store, or, where the file system can't, the
file itself where it lies.

The files were read, cut and hashed just before (`ingest`); here nothing is read again, but a file
that is not as its stamp says is refused. Order: documents durable, files synced, journal, then the
rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from stat import S_ISREG

from p2phub.digest import Digest
from p2phub.errors import FileChanged, MalformedDocument, StoreError
from p2phub.proto.content import ObjectRecord
from p2phub.store.base import Method, ObjectState, Placement, SourceFile
from p2phub.store.file_system import FileSystem
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Entry, Journal, adopted
from p2phub.store.objects import segment_rows
from p2phub.store.rows import ObjectRow, SegmentRow
from p2phub.store.sampling import samples
from p2phub.store.stamps import FileStamp

SYNC_EACH_MAX = 32  # files synced one by one; beyond it their file systems are synced once
FILES_PER_COMMIT = 1024  # a crash leaves whole groups taken, which is harmless


class Taking:
    """Takes files for one store."""

    def __init__(self, holdings: Holdings, journal: Journal) -> None:
        self._holdings = holdings
        self._journal = journal
        self._without_reflink: set[int] = set()  # devices that can't clone into the store

    def take(self, files: Sequence[SourceFile]) -> Placement:
        """See `Store.take`; the documents are held already."""
        methods: dict[Method, int] = {}
        group: dict[Digest, tuple[SourceFile, Method, FileStamp | None]] = {}
        self._holdings.keeping.note(file.record.object for file in files)
        is_synced = len(files) > SYNC_EACH_MAX
        if is_synced:
            self._sync_devices(files)
        for file in files:
            if self._is_held(file) or file.record.object in group:
                method = Method.HELD
            else:
                method, stamp = self._bring(file, is_synced)
                group[file.record.object] = file, method, stamp
                if len(group) >= FILES_PER_COMMIT:
                    self._commit(group)
                    group = {}
            methods[method] = methods.get(method, 0) + 1
        self._commit(group)
        folder = files[0].path.parent if files else self._holdings.folder.root
        return Placement(folder, methods, 0)

    def _is_held(self, file: SourceFile) -> bool:
        record = file.record
        if record.chunk_count == 0:
            return True
        object = self._holdings.objects.named(record.object)
        if object is not None and object.row.state is ObjectState.COMPLETE:
            # Its file may be gone or edited since: look before relying on it.
            try:
                if self._holdings.read(object, 0, memoryview(bytearray(1))) == 1:
                    return True
            except StoreError:
                pass
        if record.chunk_count == 1 and self._holdings.index.in_packs([record.object]):
            with self._holdings.index.transaction() as change:
                change.add_small_files([(record.sha256, record.object)])
            return True
        return False

    def _sync_devices(self, files: Sequence[SourceFile]) -> None:
        """Sync each file system the files lie on, once: what a user just wrote may not be on it."""
        for file in {file.stamp.device: file for file in files}.values():
            try:
                source = self._holdings.files.open(file.path, os.O_RDONLY)
            except FileNotFoundError:
                raise _changed(file) from None
            try:
                self._holdings.files.sync_file_system(source, file.path)
            finally:
                self._holdings.files.close(source)

    def _bring(self, file: SourceFile, is_synced: bool) -> tuple[Method, FileStamp | None]:
        files = self._holdings.files
        try:
            source = files.open(file.path, os.O_RDONLY)
        except FileNotFoundError:
            raise _changed(file) from None
        try:
            _check(files, source, file)
            if not is_synced:
                # What the user just wrote may not be on the disk yet; we are about to say it is.
                files.sync(source, file.path)
            if file.stamp.device not in self._without_reflink:
                if self._clone(source, file):
                    return Method.REFLINK, None
                self._without_reflink.add(file.stamp.device)
            _check(files, source, file)
            return Method.ADOPTED, file.stamp
        finally:
            files.close(source)

    def _clone(self, source: int, file: SourceFile) -> bool:
        holdings, name = self._holdings, file.record.object
        scratch = holdings.folder.scratch / name.hex()
        target = holdings.folder.whole(name)
        holdings.files.remove(scratch)
        clone = holdings.files.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            if not holdings.files.clone(source, clone, scratch):
                holdings.files.remove(scratch)
                return False
            _check(holdings.files, source, file)
            if holdings.files.status(clone, scratch).st_size != file.record.size:
                raise _changed(file)
            holdings.files.set_mode(clone, 0o444, scratch)
            holdings.files.sync(clone, scratch)
        except (StoreError, FileChanged):
            holdings.files.remove(scratch)
            raise
        finally:
            holdings.files.close(clone)
        with holdings.sweeping:
            holdings.files.make_folder(target.parent)
            holdings.files.rename(scratch, target)
            holdings.files.sync_folder(target.parent)
        return True

    def _commit(self, group: dict[Digest, tuple[SourceFile, Method, FileStamp | None]]) -> None:
        if not group:
            return
        holdings = self._holdings
        rows: list[tuple[ObjectRow, list[SegmentRow]]] = []
        entries: list[Entry] = []
        for name, (file, method, stamp) in group.items():
            record = file.record
            segments: list[SegmentRow] = []
            if record.has_record:
                described = ObjectRecord.decode(holdings.get(name))
                if described.size != record.size or described.sha256 != record.sha256:
                    raise MalformedDocument(f"the object record of {file.path} is of another file")
                segments = segment_rows(described)
            is_adopted = method is Method.ADOPTED
            row = ObjectRow(
                0, name, record.size, record.sha256, record.chunk_count, ObjectState.COMPLETE,
                "adopted" if is_adopted else "data", file.path if is_adopted else None, None, stamp,
            )  # fmt: skip
            rows.append((row, segments))
            if stamp is not None:
                entries.append(adopted(row, file.path, stamp))
        self._journal.append(entries)
        named = map(holdings.objects.named, group)
        replaced = [object for object in named if object is not None]
        with holdings.index.transaction() as change:
            for row, segments in rows:
                id = change.add_object(row, segments)
                for segment in segments:
                    change.add_samples(id, samples(holdings, segment, range(segment.chunk_count)))
        for object in replaced:
            if object.row.kind == "part":
                holdings.files.remove(holdings.path(object))
            holdings.dropped(object)
        for row, segments in rows:
            holdings.objects.added(row.digest, segments)


def _check(files: FileSystem, source: int, file: SourceFile) -> None:
    status = files.status(source, file.path)
    if not S_ISREG(status.st_mode) or FileStamp.of(status) != file.stamp:
        raise _changed(file)


def _changed(file: SourceFile) -> FileChanged:
    return FileChanged(
        f"{file.path} changed while it was read: nothing was published; wait until nobody"
        " writes to the folder",
        path=str(file.path),
    )
