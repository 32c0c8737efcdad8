"""The store in memory, for tests and for nodes that keep nothing: the contract without a disk.

The user's files are read when taken and written when placed, so that `take` and `place_files` cost
a copy here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from p2phub.digest import Digest, Sha256, digest, sha256
from p2phub.errors import DigestMismatch, FileChanged, MalformedDocument, NotHeld, TooLarge
from p2phub.proto.content import ObjectRecord
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.manifest import FilePage, FileRecord, document_kind
from p2phub.proto.messages import Run
from p2phub.store import bits
from p2phub.store.base import (
    PART_IDLE_S,
    Collected,
    CollectedObject,
    Inconsistency,
    Links,
    Method,
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
from p2phub.store.keeping import Keeping
from p2phub.store.marking import Marks
from p2phub.store.memory_holdings import MemoryHoldings
from p2phub.store.memory_placing import MemoryPlacing, read_unchanged
from p2phub.store.memory_spans import MemorySpanReader, MemorySpanWriter
from p2phub.store.objects import segment_rows


class MemoryStore:
    """See `p2phub.store.base.Store`."""

    def __init__(self, holdings: MemoryHoldings | None = None) -> None:
        """holdings: other ones, for tests of what refuses."""
        self._holdings = holdings or MemoryHoldings()
        self._lock = self._holdings.lock
        self._releases: dict[tuple[Digest, str], Release] = {}
        self._leases: dict[tuple[Digest, str], float] = {}
        self.losses_count = 0
        self._placing = MemoryPlacing(self._whole)
        self.lay_out = self._placing.lay_out
        self._keeping = Keeping()

    # ---- single chunks and documents

    def has(self, digest: Digest) -> bool:
        return self._holdings.has(digest)

    def get(self, digest: Digest) -> bytes:
        return self._holdings.get(digest)

    def put(self, chunks: Sequence[bytes]) -> list[Digest]:
        names = []
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise TooLarge(f"a chunk of {len(chunk)} bytes exceeds {CHUNK_BYTES_MAX}")
            names.append(digest(chunk))
        with self._lock:
            self._keeping.note(names)
            for name, chunk in zip(names, chunks, strict=True):
                self._holdings.chunks.setdefault(name, bytes(chunk))
                self._holdings.singles.add(name)
        return names

    # ---- pages

    def file_page(self, page: Digest) -> FilePage:
        return self._holdings.pages.files(page)

    def held(self, page: Digest) -> bytes | None:
        return self._holdings.entries_held(page, is_durable=True)

    def missing(self, page: Digest) -> array[int]:
        holdings = self._holdings
        held = holdings.entries_held(page, is_durable=False)
        if held is None:
            raise NotHeld(f"this node does not hold the page {page.hex()}")
        return bits.unset(held, len(holdings.pages.get(page)))

    def span_reader(self, runs: Sequence[Run]) -> MemorySpanReader:
        return MemorySpanReader(self._holdings, runs)

    def span_writer(self, runs: Sequence[Run]) -> MemorySpanWriter:
        return MemorySpanWriter(self._holdings, runs)

    # ---- objects

    def open_part(self, object: Digest, *, folder: Path | None = None) -> None:
        with self._lock:
            if object in self._holdings.objects:
                return
            self._holdings.add(ObjectRecord.decode(self.get(object)), object, ObjectState.PARTIAL)

    def reuse(self, object: Digest) -> int:
        holdings = self._holdings
        with self._lock:
            found = holdings.objects.get(object)
            if found is None:
                raise NotHeld(f"no part is open for the object {object.hex()}")
            size = 0
            for segment in found.segments if not found.is_whole else ():
                if segment.digest not in holdings.chunks:
                    continue
                page = holdings.pages.get(segment.digest)
                for index in bits.unset(found.written_bits(segment), segment.chunk_count):
                    if page.digest_of(index) in holdings.chunks:
                        found.mark_written(segment, [index])
                        size += page.lengths[index]
            return size

    def checkpoint_due(self, now: float) -> bool:
        return self._holdings.checkpoint_due(now)

    def checkpoint(self) -> list[tuple[Digest, array[int]]]:
        return self._holdings.checkpoint()

    def hash_ahead(self, object: Digest, size_max: int) -> int:
        return 0

    def finish(self, object: Digest, *, place: Place | None = None) -> Placement:
        with self._lock:
            found = self._holdings.objects.get(object)
            if found is None:
                return self._finish_single(object, place)
            if found.row.state is not ObjectState.COMPLETE:
                for waiting in found.segments:
                    if not found.holds(waiting.number, 0, waiting.chunk_count):
                        raise NotHeld(f"chunks of the object {object.hex()} are missing")
                state = Sha256()
                for chunk in self._holdings.content(object):
                    state.update(chunk)
                if state.digest() != found.row.sha256:
                    found.row = replace(found.row, state=ObjectState.CONDEMNED)
                    raise DigestMismatch(
                        f"the object {object.hex()} does not have the SHA-256 its record states",
                        object=object.hex(), sha256=found.row.sha256.hex(),
                        got=state.digest().hex(),
                    )  # fmt: skip
                found.row = replace(found.row, state=ObjectState.COMPLETE)
            row = found.row
            if place is None:
                return Placement(Path(object.hex()))
            file = FileRecord(place.path, row.size, row.sha256, object, row.chunk_count)
            placement = self.place_files([file], place.folder)
            return replace(placement, path=place.folder / place.path)

    def _finish_single(self, name: Digest, place: Place | None) -> Placement:
        data = self.get(name)
        if document_kind(data) == "object":
            raise NotHeld(f"nothing is held of the object {name.hex()}")
        self._holdings.small[sha256(data)] = name
        file = FileRecord(place.path if place else "", len(data), sha256(data), name, 1)
        return self.place_files([file], place.folder) if place else Placement(Path(name.hex()))

    def status(self, object: Digest) -> ObjectStatus | None:
        holdings = self._holdings
        with self._lock:
            found = holdings.objects.get(object)
            if found is not None:
                chunks, size = found.held()
                row = found.row
                return ObjectStatus(
                    object, row.size, row.sha256, row.chunk_count, chunks, size, row.state, None
                )
            if object not in holdings.chunks:
                return None
            if document_kind(holdings.chunks[object]) == "object":
                return None  # only the record is held, no part is open
            size = len(holdings.chunks[object])
            known = [claim for claim, name in holdings.small.items() if name == object]
            state = ObjectState.COMPLETE if known else ObjectState.PARTIAL
            return ObjectStatus(object, size, known[0] if known else b"", 1, 1, size, state, None)

    def held_among(self, files: Sequence[FileRecord]) -> tuple[set[Digest], set[Digest]]:
        known = [found for file in files if (found := self.status(file.object)) is not None]
        complete = {found.object for found in known if found.state is ObjectState.COMPLETE}
        return complete, {found.object for found in known if found.chunk_count == 1} - complete

    def objects(self, *, size_min: int = 0) -> Iterator[ObjectStatus]:
        statuses = map(self.status, list(self._holdings.objects))
        yield from (s for s in statuses if s is not None and s.size >= size_min)

    def object_by_sha256(self, sha256: bytes) -> Digest | None:
        with self._lock:
            for name, object in self._holdings.objects.items():
                if object.row.state is ObjectState.COMPLETE and object.row.sha256 == sha256:
                    return name
            return self._holdings.small.get(sha256)

    def discard_part(self, object: Digest) -> None:
        with self._lock:
            found = self._holdings.objects.get(object)
            if found is not None and found.row.state is not ObjectState.COMPLETE:
                self._holdings.forget(found)

    # ---- the user's files

    def take(self, files: Sequence[SourceFile], documents: Iterable[bytes] = ()) -> Placement:
        self.put(list(documents))
        with self._lock:
            self._keeping.note(file.record.object for file in files)
        methods: dict[Method, int] = {}
        extra = 0
        for file in files:
            record = file.record
            known = self.status(record.object)
            if record.chunk_count == 0 or (known and known.state is ObjectState.COMPLETE):
                methods[Method.HELD] = methods.get(Method.HELD, 0) + 1
                continue
            data = read_unchanged(file)
            if record.has_record:
                self._take_object(file, data)
            else:
                self.put([data])
                self._holdings.small[record.sha256] = record.object
            methods[Method.COPY] = methods.get(Method.COPY, 0) + 1
            extra += len(data)
        return Placement(files[0].path.parent if files else Path(), methods, extra)

    def withdrawn(self) -> list[Withdrawn]:
        return []

    def recheck(self, count_max: int | None = None) -> int:
        return 0

    def reread(self, size_max: int, now_s: float) -> Reread:
        return Reread(0, (), (), True)

    # ---- trees for people

    def materialize(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        return self._placing.materialize(files, destination)

    def place_files(
        self, files: Sequence[FileRecord], folder: Path, *, links: Links = Links.NONE
    ) -> Placement:
        return self._placing.place_files(files, folder)

    def conflicts(self, files: Sequence[FileRecord], folder: Path) -> list[str]:
        return self._placing.conflicts(files, folder)

    # ---- what is kept

    def add_release(self, release: Release) -> None:
        with self._lock:
            self._releases[release.manifest, release.name] = release

    def remove_release(self, manifest: Digest, name: str | None = None) -> bool:
        with self._lock:
            keys = [k for k in self._releases if k[0] == manifest and name in (None, k[1])]
            for key in keys:
                del self._releases[key]
            return bool(keys)

    def releases(self) -> list[Release]:
        with self._lock:
            return sorted(
                self._releases.values(), key=lambda release: (-release.added_s, release.name)
            )

    def pin(self, manifest: Digest, pinned: bool) -> bool:
        with self._lock:
            keys = [key for key in self._releases if key[0] == manifest]
            for key in keys:
                self._releases[key] = replace(self._releases[key], is_pinned=pinned)
            return bool(keys)

    def lease(self, manifest: Digest, owner: str, until_s: float) -> None:
        with self._lock:
            self._leases[manifest, owner] = until_s

    def leases(self, now_s: float) -> list[tuple[Digest, str, float]]:
        with self._lock:
            return [(*key, until_s) for key, until_s in self._leases.items() if until_s > now_s]

    def keeping(self, root: Digest | None = None) -> AbstractContextManager[None]:
        return self._keeping.recording() if root is None else self._keeping.root(root)

    def collect(
        self, now_s: float, *, is_dry_run: bool = False, part_idle_s: float = PART_IDLE_S
    ) -> Collected:
        holdings = self._holdings
        with self._lock, self._keeping.lock:
            marks = Marks(self.get, holdings.segments_of)
            for release in self.releases():
                marks.add_root(release.manifest, is_release=True)
            for root in {*self._keeping.roots(), *(name for name, _, _ in self.leases(now_s))}:
                marks.add_root(root, is_release=False)
            for name, object in holdings.objects.items():
                if not object.is_whole and part_idle_s:
                    marks.add_object(name)  # no clock here: every part counts as used lately
            names = [*holdings.objects, *holdings.singles]
            dropped = {n for n in names if n not in marks and not self._keeping.is_noted(n)}
            dead = [object for name, object in holdings.objects.items() if name in dropped]
            singles = holdings.singles & dropped
            size = sum(object.row.size for object in dead)
            size += sum(len(holdings.chunks[name]) for name in singles)
            if not is_dry_run:
                self.losses_count += 1
                holdings.drop(dead, singles)
        objects = [CollectedObject(o.row.digest, o.row.sha256, o.row.size) for o in dead]
        return Collected(tuple(objects), 0, len(singles), size)

    def scrub(self, since_s: float, now_s: float) -> Scrubbed:
        return Scrubbed(0, 0, True)  # memory does not rot

    def check(self, *, is_repair: bool) -> list[Inconsistency]:
        return []

    def damaged(self) -> list[Digest]:
        return []

    # ---- itself

    def usage(self) -> StoreUsage:
        holdings = self._holdings
        with self._lock:
            data = sum(o.row.size for o in holdings.objects.values() if o.is_whole)
            part = sum(o.row.size for o in holdings.objects.values() if not o.is_whole)
            packs = sum(len(holdings.chunks[name]) for name in holdings.singles)
        return StoreUsage(data, part, packs, 0, 1 << 40)

    def close(self) -> None:
        self.checkpoint()

    # ---- within

    def _take_object(self, file: SourceFile, data: bytes) -> None:
        record = ObjectRecord.decode(self.get(file.record.object))
        if record.size != len(data) or record.sha256 != file.record.sha256:
            raise MalformedDocument(f"the object record of {file.path} is of another file")
        found: dict[Digest, bytes] = {}
        for row in segment_rows(record):
            page = self._holdings.pages.get(row.digest)
            for index, length in enumerate(page.lengths):
                start = row.offset + page.offsets[index]
                chunk = data[start : start + length]
                if digest(chunk) != page.digest_of(index):
                    raise FileChanged(f"{file.path} changed while it was read", path=str(file.path))
                found[page.digest_of(index)] = chunk
        with self._lock:
            self.discard_part(file.record.object)
            self._holdings.chunks.update(found)
            self._holdings.add(record, file.record.object, ObjectState.COMPLETE)

    def _whole(self, file: FileRecord) -> bytes:
        with self._lock:
            if file.has_record:
                object = self._holdings.objects.get(file.object)
                if object is None or object.row.state is not ObjectState.COMPLETE:
                    raise NotHeld(f"{file.path} is not complete: fetch it first", path=file.path)
                data = b"".join(self._holdings.content(file.object))
            else:
                data = self.get(file.object)
        if (len(data), sha256(data)) != (file.size, file.sha256):
            raise DigestMismatch(f"the SHA-256 stated of {file.path} is false", path=file.path)
        if file.chunk_count == 1:
            self._holdings.small[file.sha256] = file.object
        return data
