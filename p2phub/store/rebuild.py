"""Making the index again from what it was an index of: packs, whole files, parts and the journal.

Whole files of the store are believed by their place: they got there only after their SHA-256 was
recomputed, and each read verifies. Files of the user's are believed if their stamp is the
journal's. Parts are read whole, chunk by chunk.
"""

from __future__ import annotations

import os
from pathlib import Path

from p2phub.digest import Digest, digest, sha256
from p2phub.errors import ContentError, NotHeld, StoreError
from p2phub.paths import StoreFolder
from p2phub.proto.content import ObjectRecord
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.manifest import FilePage, Manifest, document_kind
from p2phub.store.base import ObjectState
from p2phub.store.file_system import FileSystem, failures, listed
from p2phub.store.holdings import Holdings
from p2phub.store.index import Index
from p2phub.store.journal import Journal, parse_name
from p2phub.store.objects import StoredObject, segment_rows
from p2phub.store.packs import Location, numbers, scan
from p2phub.store.rows import ObjectRow, SegmentRow
from p2phub.store.sampling import samples
from p2phub.store.stamps import FileStamp

CHUNKS_PER_COMMIT = 4096


def index_packs(index: Index, files: FileSystem, folder: StoreFolder) -> None:
    """Find every chunk that lies whole in a pack."""
    with failures(folder.packs):
        found = numbers(os.listdir(folder.packs))
    for number in found:
        group: list[tuple[Digest, Location]] = []
        end = 0
        for name, location in scan(files, folder, number):
            group.append((name, location))
            end = location.offset + location.length
            if len(group) >= CHUNKS_PER_COMMIT:
                with index.transaction() as change:
                    change.add_chunks(group, {number: end})
                group = []
        with index.transaction() as change:
            change.add_chunks(group, {number: end})
    if found:
        # What lies behind the last record that is whole stays as it is: go on in a new pack.
        with index.transaction() as change:
            change.add_chunks([], {found[-1] + 1: 0})


class Rebuild:
    """Objects, releases and pins for an index that has the packs already."""

    def __init__(self, holdings: Holdings, journal: Journal) -> None:
        self._holdings = holdings
        self._journal = journal

    def run(self) -> None:
        """Never raises for one bad thing: what can't be understood is left where it is, and not
        held.
        """
        folder, told = self._holdings.folder, self._journal.told()
        with self._holdings.index.transaction() as change:
            for release in told.releases.values():
                change.put_release(release)
        for above in listed(folder.data):
            for text in listed(folder.data / above):
                self.whole(text, folder.data / above / text, "data", None)
        for text, entry in told.adopted.items():
            path = Path(str(entry["path"]))
            try:
                stamp = FileStamp.of(os.lstat(path))
                if FileStamp(*map(int, entry["stamp"])) == stamp:
                    self.whole(text, path, "adopted", stamp)
            except (OSError, KeyError, TypeError, ValueError):
                continue
        own = {folder.parts / name: name for name in listed(folder.parts)}
        for path, text in {**own, **told.parts}.items():
            self.part(text, path)
        for manifest in {release.manifest for release in told.releases.values()}:
            self._small_files(manifest)

    def _small_files(self, root: Digest) -> None:
        """Learn anew which chunks in packs are whole files of a release: their SHA-256 is right."""
        try:
            data = self._holdings.get(root)
            if document_kind(data) is None:
                self._note_small([(sha256(data), root)])
            if document_kind(data) != "manifest":
                return
            pages = [page.digest for page in Manifest.decode(data).pages]
        except (StoreError, ContentError):
            return
        for name in pages:
            try:
                files = FilePage.decode(self._holdings.get(name)).files
            except (StoreError, ContentError):
                continue
            singles = {file.object: file.sha256 for file in files if file.chunk_count == 1}
            held = self._holdings.index.in_packs(list(singles))
            self._note_small(
                [(singles[name], name) for name in held if self._is_right(name, singles)]
            )

    def _is_right(self, name: Digest, claims: dict[Digest, bytes]) -> bool:
        try:
            return sha256(self._holdings.get(name)) == claims[name]
        except StoreError:
            return False

    def _note_small(self, files: list[tuple[bytes, Digest]]) -> None:
        with self._holdings.index.transaction() as change:
            change.add_small_files(files)

    def whole(self, text: str, path: Path, kind: str, stamp: FileStamp | None) -> bool:
        """Give a whole file its row; False: it is not what `text`, the name of an object, says."""
        try:
            name = parse_name(text)
            size = os.lstat(path).st_size
            described = self._described(name, path, size)
        except (ValueError, OSError, StoreError, ContentError):
            return False
        if described is None:
            return False
        claim, chunk_count, segments = described
        row = ObjectRow(
            0, name, size, claim, chunk_count, ObjectState.COMPLETE, kind,
            path if kind == "adopted" else None, None, stamp,
        )  # fmt: skip
        self._add(row, segments)
        return True

    def again(self, name: Digest, path: Path, kind: str, stamp: FileStamp | None) -> bool:
        """As `whole`, for an object that may have a row; False also where it lies elsewhere."""
        old = self._holdings.objects.named(name)
        if old is not None and old.row.state is not ObjectState.CHANGED:
            return False
        if old is not None:
            self._holdings.dropped(old)
        return self.whole(name.hex(), path, kind, stamp)

    def part(self, text: str, path: Path) -> bool:
        """Give a part its row, and bits for what is right in it; False: it is not what `text` says,
        or that object has a row.
        """
        try:
            name = parse_name(text)
            record = ObjectRecord.decode(self._holdings.get(name))
            segments = segment_rows(record)
            is_known = self._holdings.objects.named(name) is not None
            if os.lstat(path).st_size != record.size or is_known:
                return False
        except (ValueError, OSError, StoreError, ContentError):
            return False
        is_own = path == self._holdings.folder.part(name)
        row = ObjectRow(
            0, name, record.size, record.sha256, record.chunk_count, ObjectState.PARTIAL, "part",
            None if is_own else path, None, None,
        )  # fmt: skip
        object = self._add(row, segments)
        if object is None:
            return False
        for segment in segments:
            right = self._right(object, segment)
            with self._holdings.index.transaction() as change:
                object.mark_written(segment, right)
                object.mark_durable({segment.number: right})
                object.pending = {}
                change.put_bits(object.row.id, [(segment.number, object.durable[segment.number])])
                change.add_samples(object.row.id, samples(self._holdings, segment, right))
        return True

    def _right(self, object: StoredObject, segment: SegmentRow) -> list[int]:
        """Which chunks of a segment lie in the part as they must."""
        right = []
        try:
            page = self._holdings.segment_page(segment)
            buffer = memoryview(bytearray(CHUNK_BYTES_MAX))
            for index, length in enumerate(page.lengths):
                view = buffer[:length]
                got = self._holdings.read(object, segment.offset + page.offsets[index], view)
                if got == length and digest(view) == page.digest_of(index):
                    right.append(index)
        except (StoreError, ContentError):
            pass
        return right

    def _described(
        self, name: Digest, path: Path, size: int
    ) -> tuple[bytes, int, list[SegmentRow]] | None:
        """SHA-256, chunks and segments of a whole file; None if it is not what its name says."""
        try:
            record = ObjectRecord.decode(self._holdings.get(name))
        except (NotHeld, ContentError):
            if size > CHUNK_BYTES_MAX:
                return None
            data = path.read_bytes()
            return (sha256(data), 1, []) if digest(data) == name else None
        if record.size != size:
            return None
        return record.sha256, record.chunk_count, segment_rows(record)

    def _add(self, row: ObjectRow, segments: list[SegmentRow]) -> StoredObject | None:
        with self._holdings.index.transaction() as change:
            id = change.add_object(row, segments)
            if row.state is ObjectState.COMPLETE:
                for segment in segments:
                    change.add_samples(
                        id, samples(self._holdings, segment, range(segment.chunk_count))
                    )
        objects = self._holdings.objects
        stale = objects.named(row.digest)  # as it was when its chunk was looked for
        if stale is not None:
            self._holdings.dropped(stale)
        objects.added(row.digest, segments)
        return objects.get(id)
