"""The store on a disk: one folder that holds everything, opened by one process at a time (the
daemon locks its home).

What is where: `p2phub.paths.StoreFolder`. How bytes become durable: parts.py and packs.py.
Everything that can be wrong on the disk is found at open (cheap things) or at each read (bytes);
nothing wrong stops the store.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from p2phub.digest import Digest, digest
from p2phub.errors import CorruptChunk, NotHeld, StoreFailed, TooLarge
from p2phub.paths import StoreFolder
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.manifest import FilePage, FileRecord, document_kind
from p2phub.proto.messages import Run
from p2phub.store import bits
from p2phub.store.allocating import Allocating
from p2phub.store.base import (
    PART_IDLE_S,
    Collected,
    Inconsistency,
    Links,
    ObjectState,
    ObjectStatus,
    Place,
    Placement,
    Release,
    Reread,
    Scrubbed,
    SourceFile,
    StoreUsage,
    Withdrawn,
)
from p2phub.store.checking import Checking
from p2phub.store.collecting import Collecting
from p2phub.store.file_system import FileSystem
from p2phub.store.finishing import Finishing
from p2phub.store.format import end_rebuild, open_index, prepare
from p2phub.store.hashing import PrefixHash
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Journal, kept, let_go
from p2phub.store.objects import StoredObject
from p2phub.store.packs import Packs
from p2phub.store.parts import Parts
from p2phub.store.placing import DiskLayout, Placing
from p2phub.store.rebuild import Rebuild, index_packs
from p2phub.store.rechecking import Rechecking
from p2phub.store.rereading import Rereading
from p2phub.store.reuse import Reuse
from p2phub.store.scrubbing import Scrubbing
from p2phub.store.spans import DiskSpanReader, DiskSpanWriter
from p2phub.store.taking import Taking

PUT_CHUNKS_MAX = 4096  # written and synced at once


class DiskStore:
    """See `p2phub.store.base.Store`."""

    def __init__(self, root: Path, *, files: FileSystem | None = None) -> None:
        """Open the store below `root`, or make one. Raises StoreNewer, StoreFull, StoreFailed."""
        self._files = files or FileSystem()
        self._folder = folder = StoreFolder(root.absolute())
        is_new = prepare(self._files, folder)
        self._index, is_empty = open_index(self._files, folder)
        if is_empty and not is_new:
            index_packs(self._index, self._files, folder)
        packs = Packs(folder, self._files, self._index.pack_ends())
        self._holdings = Holdings(folder, self._files, self._index, packs)
        self._journal = Journal(folder.journal, self._files)
        self._parts = Parts(self._holdings)
        self._allocating = Allocating(self._holdings, self._journal, self._parts)
        self._finishing = Finishing(self._holdings, self._journal, self._parts)
        self._taking = Taking(self._holdings, self._journal)
        self._placing = Placing(self._holdings, self._journal)
        self._collecting = Collecting(self._holdings, self._journal, self._parts)
        self._scrubbing = Scrubbing(self._holdings)
        self._rechecking = Rechecking(self._holdings)
        self._rereading = Rereading(self._holdings, self._journal)
        self._packs = packs
        if is_empty and not is_new:
            Rebuild(self._holdings, self._journal).run()
        if is_empty:
            end_rebuild(self._files, folder)
        self._recover()

    # ---- single chunks and documents

    def has(self, digest: Digest) -> bool:
        return bool(self._holdings.has([digest], is_durable=False))

    def get(self, digest: Digest) -> bytes:
        return self._holdings.get(digest)

    def put(self, chunks: Sequence[bytes]) -> list[Digest]:
        names = []
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise TooLarge(f"a chunk of {len(chunk)} bytes exceeds {CHUNK_BYTES_MAX}")
            names.append(digest(chunk))
        self._holdings.keeping.note(names)
        held = self._index.in_packs(names)
        new = [(name, chunk) for name, chunk in zip(names, chunks, strict=True) if name not in held]
        for start in range(0, len(new), PUT_CHUNKS_MAX):
            self._packs.append(new[start : start + PUT_CHUNKS_MAX])
            self._parts.commit_packs()
        if len(self._index.in_packs([name for name, _ in new])) < len({name for name, _ in new}):
            # Another thread's sync failed with these in it.
            raise StoreFailed(
                f"the disk lost what was written to {self._folder.packs}: try again",
                path=str(self._folder.packs), errno=errno.EIO,
            )  # fmt: skip
        return names

    # ---- pages

    def file_page(self, page: Digest) -> FilePage:
        return self._holdings.pages.files(page)

    def held(self, page: Digest) -> bytes | None:
        return self._bits(page, is_durable=True)

    def missing(self, page: Digest) -> array[int]:
        held = self._bits(page, is_durable=False)
        if held is None:
            raise NotHeld(f"this node does not hold the page {page.hex()}", digest=page.hex())
        return bits.unset(held, len(self._holdings.pages.get(page)))

    def span_reader(self, runs: Sequence[Run]) -> DiskSpanReader:
        return DiskSpanReader(self._holdings, runs)

    def span_writer(self, runs: Sequence[Run]) -> DiskSpanWriter:
        return DiskSpanWriter(self._holdings, self._parts, runs)

    # ---- objects

    def open_part(self, object: Digest, *, folder: Path | None = None) -> None:
        found = self._holdings.objects.named(object)
        if found is not None:
            self._finishing.settle(found, is_anew=True)
        self._allocating.open(object, folder)

    def reuse(self, object: Digest) -> int:
        found = self._holdings.objects.named(object)
        if found is None or found.row.kind != "part":
            if found is not None and found.is_whole:
                return 0
            raise NotHeld(f"no part is open for the object {object.hex()}", object=object.hex())
        return Reuse(self._holdings, self._parts, found).run()

    def checkpoint_due(self, now: float) -> bool:
        return self._parts.is_due(now)

    def checkpoint(self) -> list[tuple[Digest, array[int]]]:
        return self._parts.checkpoint()

    def finish(self, object: Digest, *, place: Place | None = None) -> Placement:
        found = self._holdings.objects.named(object)
        if found is None or (found.row.chunk_count == 1 and not found.is_whole):
            file = self._finishing.finish_single(object, found, place.path if place else "")
            return self._placing.place_files([file], place.folder) if place else Placement(Path())
        placement = None
        if found.row.state is not ObjectState.COMPLETE:
            placement = self._finishing.finish(found, place)
        row = found.row
        if place is None or row.path == place.folder / place.path:
            return placement or Placement(self._holdings.path(found), {}, 0)
        file = FileRecord(place.path, row.size, row.sha256, row.digest, row.chunk_count)
        return self._placing.place_files([file], place.folder)

    def hash_ahead(self, object: Digest, size_max: int) -> int:
        found = self._holdings.objects.named(object)
        if found is None or found.row.kind != "part" or found.is_whole:
            return 0
        with found.lock:
            prefix = found.prefix = found.prefix or PrefixHash()
        try:
            return prefix.advance(self._holdings, found, size_max)
        except NotHeld:
            return 0  # finished or dropped meanwhile

    def status(self, object: Digest) -> ObjectStatus | None:
        found = self._holdings.objects.named(object)
        if found is not None:
            return self._status(found)
        sha256 = self._index.sha256_of_small(object)
        try:
            chunk = self._holdings.get(object)
        except (NotHeld, CorruptChunk):
            return None
        if sha256 is None and document_kind(chunk) == "object":
            return None  # only the record is held, no part is open
        state = ObjectState.PARTIAL if sha256 is None else ObjectState.COMPLETE
        return ObjectStatus(object, len(chunk), sha256 or b"", 1, 1, len(chunk), state, None)

    def held_among(self, files: Sequence[FileRecord]) -> tuple[set[Digest], set[Digest]]:
        complete = self._index.complete_among([file.object for file in files if file.size])
        singles = [
            file.object for file in files if file.chunk_count == 1 and file.object not in complete
        ]
        return complete, self._holdings.has(singles, is_durable=False) if singles else set()

    @property
    def losses_count(self) -> int:
        return self._index.losses_count

    def objects(self, *, size_min: int = 0) -> Iterator[ObjectStatus]:
        for id in self._index.object_ids("chunk_count > 1 AND size >= ?", (size_min,)):
            object = self._holdings.objects.get(id)
            if object is not None:
                yield self._status(object)

    def object_by_sha256(self, sha256: bytes) -> Digest | None:
        row = self._index.complete_with_sha256(sha256)
        return row.digest if row else self._index.small_with_sha256(sha256)

    def discard_part(self, object: Digest) -> None:
        found = self._holdings.objects.named(object)
        if found is not None and found.row.state is not ObjectState.COMPLETE:
            self._parts.discard(found)

    # ---- the user's files

    def take(self, files: Sequence[SourceFile], documents: Iterable[bytes] = ()) -> Placement:
        group: list[bytes] = []
        size = 0
        for document in documents:
            group.append(document)
            size += len(document)
            if size >= 16 << 20:
                self.put(group)
                group, size = [], 0
        self.put(group)
        return self._taking.take(files)

    def withdrawn(self) -> list[Withdrawn]:
        return self._holdings.withdrawn()

    def recheck(self, count_max: int | None = None) -> int:
        return self._rechecking.look(count_max)

    def reread(self, size_max: int, now_s: float) -> Reread:
        return self._rereading.step(size_max, now_s)

    # ---- trees for people

    def materialize(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        return self._placing.materialize(files, destination)

    def place_files(
        self, files: Sequence[FileRecord], folder: Path, *, links: Links = Links.NONE
    ) -> Placement:
        return self._placing.place_files(files, folder, links=links)

    def lay_out(
        self, files: Sequence[FileRecord], folder: Path, *, is_tree: bool = False
    ) -> DiskLayout:
        return self._placing.lay_out(files, folder, is_tree=is_tree)

    def conflicts(self, files: Sequence[FileRecord], folder: Path) -> list[str]:
        return self._placing.conflicts(files, folder)

    # ---- what is kept

    def add_release(self, release: Release) -> None:
        with self._journal.keeping:
            self._journal.append([kept(release)])
            with self._index.transaction() as change:
                change.put_release(release)

    def remove_release(self, manifest: Digest, name: str | None = None) -> bool:
        with self._journal.keeping:
            self._journal.append([let_go(manifest, name)])
            with self._index.transaction() as change:
                return change.drop_release(manifest, name) > 0

    def releases(self) -> list[Release]:
        return list(self._index.releases())

    def pin(self, manifest: Digest, pinned: bool) -> bool:
        with self._journal.keeping:
            self._journal.append([{"do": "pin", "manifest": manifest.hex(), "pinned": pinned}])
            with self._index.transaction() as change:
                return change.pin(manifest, pinned) > 0

    def lease(self, manifest: Digest, owner: str, until_s: float) -> None:
        with self._index.transaction() as change:
            change.put_lease(manifest, owner, until_s)

    def leases(self, now_s: float) -> list[tuple[Digest, str, float]]:
        return self._index.leases(now_s)

    def keeping(self, root: Digest | None = None) -> AbstractContextManager[None]:
        keeping = self._holdings.keeping
        return keeping.recording() if root is None else keeping.root(root)

    def collect(
        self, now_s: float, *, is_dry_run: bool = False, part_idle_s: float = PART_IDLE_S
    ) -> Collected:
        return self._collecting.collect(now_s, part_idle_s, is_dry_run=is_dry_run)

    def scrub(self, since_s: float, now_s: float) -> Scrubbed:
        return self._scrubbing.scrub(since_s, now_s)

    def check(self, *, is_repair: bool) -> list[Inconsistency]:
        return Checking(self._holdings, self._journal, self._parts, self._finishing).run(
            is_repair=is_repair
        )

    def damaged(self) -> list[Digest]:
        return self._holdings.still_damaged()

    # ---- itself

    def usage(self) -> StoreUsage:
        sizes = self._index.sizes()
        return StoreUsage(
            sizes.get("data", 0),
            sizes.get("part", 0),
            self._index.pack_bytes(),
            sizes.get("adopted", 0),
            self._files.free_bytes(self._folder.root),
        )

    def close(self) -> None:
        try:
            self._parts.close()
        finally:
            self._holdings.close()
            self._packs.close()
            self._index.close()

    # ---- within

    def _bits(self, page: Digest, *, is_durable: bool) -> bytes | None:
        holdings = self._holdings
        try:
            listed = holdings.pages.get(page)
        except NotHeld:
            return None
        count = len(listed)
        if not listed.is_segment:
            names = [listed.digest_of(index) for index in range(count)]
            held = holdings.has(names, is_durable=is_durable)
            return bytes(bits.of((i for i, name in enumerate(names) if name in held), count))
        found = bytearray(bits.size(count))
        for object, segment in holdings.objects.places(page):
            if segment.chunk_count != count:
                continue  # an object that says something false about this page
            some = object.durable_bits(segment) if is_durable else object.written_bits(segment)
            if object.is_whole:
                return bytes(some)
            found = bits.union(found, some)
        return bytes(found)

    def _status(self, object: StoredObject) -> ObjectStatus:
        row = object.row
        chunks, size = object.held()
        return ObjectStatus(
            row.digest, row.size, row.sha256, row.chunk_count, chunks, size, row.state,
            self._holdings.path(object),
        )  # fmt: skip

    def _recover(self) -> None:
        """Carry out what a crash left doomed, and understand what it left of each part."""
        self._collecting.redo()
        for id in self._index.object_ids("state = 'partial' AND kind = 'part'"):
            object = self._holdings.objects.get(id)
            if object is not None:
                # A part in a folder of the user's may lie on a disk that is away or failing: it
                # stays as it is, and whoever asks for it is told.
                with suppress(StoreFailed):
                    self._finishing.settle(object)
