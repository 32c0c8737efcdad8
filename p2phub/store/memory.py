"""The store in memory, for tests and for nodes that keep nothing: the contract without a disk.

The user's files are read when taken and written when placed, so that `take` and `place_files` cost
a copy here. One lock for everything: speed is no aim.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import RLock

from p2phub.digest import EMPTY, Digest, Sha256, digest, sha256
from p2phub.errors import DigestMismatch, FileChanged, MalformedDocument, NotHeld, TooLarge
from p2phub.proto.content import ObjectRecord
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.manifest import FilePage, FileRecord, document_kind
from p2phub.proto.messages import Run
from p2phub.store import bits
from p2phub.store.base import (
    CHECKPOINT_BYTES,
    CHECKPOINT_S,
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
from p2phub.store.memory_placing import MemoryPlacing, read_unchanged
from p2phub.store.memory_spans import MemorySpanReader, MemorySpanWriter
from p2phub.store.objects import StoredObject, segment_rows
from p2phub.store.pages import Page, Pages
from p2phub.store.rows import ObjectRow, SegmentRow


class MemoryStore:
    """See `p2phub.store.base.Store`."""

    def __init__(self) -> None:
        self.lock = RLock()
        self.chunks: dict[Digest, bytes] = {}  # everything written, whatever lists it
        self.pages = Pages(self.get)
        self._singles: set[Digest] = set()  # documents and files of one chunk, durable
        self._packed: dict[Digest, list[tuple[Digest, int]]] = {}  # singles not yet durable
        self._objects: dict[Digest, StoredObject] = {}
        self._segments: dict[Digest, list[tuple[StoredObject, SegmentRow]]] = {}
        self._small: dict[bytes, Digest] = {}  # by SHA-256
        self._releases: dict[tuple[Digest, str], Release] = {}
        self._leases: dict[tuple[Digest, str], float] = {}
        self._ids = count(1)
        self._waiting_bytes = 0
        self._waiting_since: float | None = None
        self.losses_count = 0
        self._placing = MemoryPlacing(self._whole)
        self.lay_out = self._placing.lay_out
        self._keeping = Keeping()

    # ---- single chunks and documents

    def has(self, digest: Digest) -> bool:
        return digest == EMPTY or digest in self.chunks

    def get(self, digest: Digest) -> bytes:
        if digest == EMPTY:
            return b""
        try:
            return self.chunks[digest]
        except KeyError:
            raise NotHeld(f"this node does not hold the chunk {digest.hex()}") from None

    def put(self, chunks: Sequence[bytes]) -> list[Digest]:
        names = []
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise TooLarge(f"a chunk of {len(chunk)} bytes exceeds {CHUNK_BYTES_MAX}")
            names.append(digest(chunk))
        with self.lock:
            self._keeping.note(names)
            for name, chunk in zip(names, chunks, strict=True):
                self.chunks.setdefault(name, bytes(chunk))
                self._singles.add(name)
        return names

    # ---- pages

    def file_page(self, page: Digest) -> FilePage:
        return self.pages.files(page)

    def held(self, page: Digest) -> bytes | None:
        return self._bits(page, is_durable=True)

    def missing(self, page: Digest) -> array[int]:
        held = self._bits(page, is_durable=False)
        if held is None:
            raise NotHeld(f"this node does not hold the page {page.hex()}")
        return bits.unset(held, len(self.pages.get(page)))

    def span_reader(self, runs: Sequence[Run]) -> MemorySpanReader:
        span = MemorySpanReader(self, runs)
        for page, index in span.entries:
            name = page.digest_of(index)
            if page.is_segment:
                is_held = any(o.holds(s.number, index, index + 1) for o, s in self.places(page))
            else:
                is_held = self.has(name)
            if not is_held and not (page.is_segment and name in self._singles):
                raise NotHeld(f"chunk {index} of {page.digest.hex()} is not held", entry=index)
        return span

    def span_writer(self, runs: Sequence[Run]) -> MemorySpanWriter:
        span = MemorySpanWriter(self, runs)
        for page, _ in span.entries:
            if page.is_segment and not self.places(page):
                raise NotHeld(f"no part is open for the segment {page.digest.hex()}")
        return span

    # ---- objects

    def open_part(self, object: Digest, *, folder: Path | None = None) -> None:
        with self.lock:
            if object in self._objects:
                return
            self._add(ObjectRecord.decode(self.get(object)), object, ObjectState.PARTIAL)

    def reuse(self, object: Digest) -> int:
        with self.lock:
            found = self._objects.get(object)
            if found is None:
                raise NotHeld(f"no part is open for the object {object.hex()}")
            size = 0
            for segment in found.segments if not found.is_whole else ():
                if segment.digest not in self.chunks:
                    continue
                page = self.pages.get(segment.digest)
                for index in bits.unset(found.written_bits(segment), segment.chunk_count):
                    if page.digest_of(index) in self.chunks:
                        found.mark_written(segment, [index])
                        size += page.lengths[index]
            return size

    def checkpoint_due(self, now: float) -> bool:
        with self.lock:
            if not self._waiting_bytes:
                self._waiting_since = None
                return False
            if self._waiting_since is None:
                self._waiting_since = now
            is_late = now - self._waiting_since >= CHECKPOINT_S
            return is_late or self._waiting_bytes >= CHECKPOINT_BYTES

    def checkpoint(self) -> list[tuple[Digest, array[int]]]:
        with self.lock:
            done: dict[Digest, set[int]] = {}
            for object in self._objects.values():
                pending, object.pending = object.pending, {}
                object.mark_durable(pending)
                for number, indexes in pending.items():
                    if indexes:
                        done.setdefault(object.segments[number].digest, set()).update(indexes)
            for name, entries in self._packed.items():
                self._singles.add(name)
                for page, index in entries:
                    done.setdefault(page, set()).add(index)
            self._packed = {}
            self._waiting_bytes, self._waiting_since = 0, None
            return [(page, array("I", sorted(indexes))) for page, indexes in done.items()]

    def hash_ahead(self, object: Digest, size_max: int) -> int:
        return 0

    def finish(self, object: Digest, *, place: Place | None = None) -> Placement:
        with self.lock:
            found = self._objects.get(object)
            if found is None:
                return self._finish_single(object, place)
            if found.row.state is not ObjectState.COMPLETE:
                for waiting in found.segments:
                    if not found.holds(waiting.number, 0, waiting.chunk_count):
                        raise NotHeld(f"chunks of the object {object.hex()} are missing")
                state = Sha256()
                for chunk in self._content(object):
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
        self._small[sha256(data)] = name
        file = FileRecord(place.path if place else "", len(data), sha256(data), name, 1)
        return self.place_files([file], place.folder) if place else Placement(Path(name.hex()))

    def status(self, object: Digest) -> ObjectStatus | None:
        with self.lock:
            found = self._objects.get(object)
            if found is not None:
                chunks, size = found.held()
                row = found.row
                return ObjectStatus(
                    object, row.size, row.sha256, row.chunk_count, chunks, size, row.state, None
                )
            if object not in self.chunks:
                return None
            if document_kind(self.chunks[object]) == "object":
                return None  # only the record is held, no part is open
            size = len(self.chunks[object])
            known = [claim for claim, name in self._small.items() if name == object]
            state = ObjectState.COMPLETE if known else ObjectState.PARTIAL
            return ObjectStatus(object, size, known[0] if known else b"", 1, 1, size, state, None)

    def held_among(self, files: Sequence[FileRecord]) -> tuple[set[Digest], set[Digest]]:
        known = [found for file in files if (found := self.status(file.object)) is not None]
        complete = {found.object for found in known if found.state is ObjectState.COMPLETE}
        return complete, {found.object for found in known if found.chunk_count == 1} - complete

    def objects(self, *, size_min: int = 0) -> Iterator[ObjectStatus]:
        statuses = map(self.status, list(self._objects))
        yield from (s for s in statuses if s is not None and s.size >= size_min)

    def object_by_sha256(self, sha256: bytes) -> Digest | None:
        with self.lock:
            for name, object in self._objects.items():
                if object.row.state is ObjectState.COMPLETE and object.row.sha256 == sha256:
                    return name
            return self._small.get(sha256)

    def discard_part(self, object: Digest) -> None:
        with self.lock:
            found = self._objects.get(object)
            if found is not None and found.row.state is not ObjectState.COMPLETE:
                self._forget(found)

    # ---- the user's files

    def take(self, files: Sequence[SourceFile], documents: Iterable[bytes] = ()) -> Placement:
        self.put(list(documents))
        with self.lock:
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
                self._small[record.sha256] = record.object
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
        with self.lock:
            self._releases[release.manifest, release.name] = release

    def remove_release(self, manifest: Digest, name: str | None = None) -> bool:
        with self.lock:
            keys = [k for k in self._releases if k[0] == manifest and name in (None, k[1])]
            for key in keys:
                del self._releases[key]
            return bool(keys)

    def releases(self) -> list[Release]:
        with self.lock:
            return sorted(
                self._releases.values(), key=lambda release: (-release.added_s, release.name)
            )

    def pin(self, manifest: Digest, pinned: bool) -> bool:
        with self.lock:
            keys = [key for key in self._releases if key[0] == manifest]
            for key in keys:
                self._releases[key] = replace(self._releases[key], is_pinned=pinned)
            return bool(keys)

    def lease(self, manifest: Digest, owner: str, until_s: float) -> None:
        with self.lock:
            self._leases[manifest, owner] = until_s

    def leases(self, now_s: float) -> list[tuple[Digest, str, float]]:
        with self.lock:
            return [(*key, until_s) for key, until_s in self._leases.items() if until_s > now_s]

    def keeping(self, root: Digest | None = None) -> AbstractContextManager[None]:
        return self._keeping.recording() if root is None else self._keeping.root(root)

    def collect(
        self, now_s: float, *, is_dry_run: bool = False, part_idle_s: float = PART_IDLE_S
    ) -> Collected:
        with self.lock, self._keeping.lock:
            marks = Marks(self.get, self._segments_of)
            for release in self.releases():
                marks.add_root(release.manifest, is_release=True)
            for root in {*self._keeping.roots(), *(name for name, _, _ in self.leases(now_s))}:
                marks.add_root(root, is_release=False)
            for name, object in self._objects.items():
                if not object.is_whole and part_idle_s:
                    marks.add_object(name)  # no clock here: every part counts as used lately
            names = [*self._objects, *self._singles]
            dropped = {n for n in names if n not in marks and not self._keeping.is_noted(n)}
            dead = [object for name, object in self._objects.items() if name in dropped]
            singles = self._singles & dropped
            size = sum(object.row.size for object in dead)
            size += sum(len(self.chunks[name]) for name in singles)
            if not is_dry_run:
                self._drop(dead, singles)
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
        with self.lock:
            data = sum(o.row.size for o in self._objects.values() if o.is_whole)
            part = sum(o.row.size for o in self._objects.values() if not o.is_whole)
            packs = sum(len(self.chunks[name]) for name in self._singles)
        return StoreUsage(data, part, packs, 0, 1 << 40)

    def close(self) -> None:
        self.checkpoint()

    # ---- for spans

    def places(self, page: Page) -> list[tuple[StoredObject, SegmentRow]]:
        return self._segments.get(page.digest, [])

    def write(self, page: Page, index: int, data: memoryview) -> None:
        """A verified chunk."""
        with self.lock:
            name = page.digest_of(index)
            self.chunks.setdefault(name, bytes(data))
            self._waiting_bytes += len(data)
            if not page.is_segment:
                self._packed.setdefault(name, []).append((page.digest, index))
            for object, segment in self.places(page):
                if not object.holds(segment.number, index, index + 1):
                    object.mark_written(segment, [index])

    # ---- within

    def _bits(self, name: Digest, *, is_durable: bool) -> bytes | None:
        with self.lock:
            if name not in self.chunks:
                return None
            page = self.pages.get(name)
            if not page.is_segment:
                names = map(page.digest_of, range(len(page)))
                held = [i for i, name in enumerate(names) if self._is_held(name, is_durable)]
                return bytes(bits.of(held, len(page)))
            found = bytearray(bits.size(len(page)))
            for object, segment in self.places(page):
                some = object.durable_bits(segment) if is_durable else object.written_bits(segment)
                found = bits.union(found, some)
            return bytes(found)

    def _segments_of(self, name: Digest) -> list[Digest] | None:
        object = self._objects.get(name)
        return None if object is None else [segment.digest for segment in object.segments]

    def _drop(self, objects: Sequence[StoredObject], singles: set[Digest]) -> None:
        for object in objects:
            self._forget(object)
        self.losses_count += 1
        self._singles -= singles
        self._small = {sha: name for sha, name in self._small.items() if name not in singles}
        kept = self._singles | set(self._packed)
        for object in self._objects.values():
            for segment in object.segments:
                if segment.digest in self.chunks:
                    page = self.pages.get(segment.digest)
                    kept.update(page.digest_of(index) for index in range(len(page)))
        for name in set(self.chunks) - kept:
            del self.chunks[name]
            self.pages.drop(name)

    def _forget(self, object: StoredObject) -> None:
        del self._objects[object.row.digest]
        for segment in object.segments:
            self._segments[segment.digest].remove((object, segment))

    def _is_held(self, name: Digest, is_durable: bool) -> bool:
        return name == EMPTY or (name in self._singles if is_durable else name in self.chunks)

    def _add(self, record: ObjectRecord, name: Digest, state: ObjectState) -> StoredObject:
        segments = segment_rows(record)
        row = ObjectRow(
            next(self._ids), name, record.size, record.sha256, record.chunk_count, state, "part",
            None, None, None,
        )  # fmt: skip
        object = self._objects[name] = StoredObject(row, segments)
        for segment in segments:
            self._segments.setdefault(segment.digest, []).append((object, segment))
        return object

    def _take_object(self, file: SourceFile, data: bytes) -> None:
        record = ObjectRecord.decode(self.get(file.record.object))
        if record.size != len(data) or record.sha256 != file.record.sha256:
            raise MalformedDocument(f"the object record of {file.path} is of another file")
        found: dict[Digest, bytes] = {}
        for row in segment_rows(record):
            page = self.pages.get(row.digest)
            for index, length in enumerate(page.lengths):
                start = row.offset + page.offsets[index]
                chunk = data[start : start + length]
                if digest(chunk) != page.digest_of(index):
                    raise FileChanged(f"{file.path} changed while it was read", path=str(file.path))
                found[page.digest_of(index)] = chunk
        with self.lock:
            self.discard_part(file.record.object)
            self.chunks.update(found)
            self._add(record, file.record.object, ObjectState.COMPLETE)

    def _content(self, object: Digest) -> Iterator[bytes]:
        for segment in self._objects[object].segments:
            page = self.pages.get(segment.digest)
            for index in range(len(page)):
                yield self.chunks[page.digest_of(index)]

    def _whole(self, file: FileRecord) -> bytes:
        with self.lock:
            if file.has_record:
                object = self._objects.get(file.object)
                if object is None or object.row.state is not ObjectState.COMPLETE:
                    raise NotHeld(f"{file.path} is not complete: fetch it first", path=file.path)
                data = b"".join(self._content(file.object))
            else:
                data = self.get(file.object)
        if (len(data), sha256(data)) != (file.size, file.sha256):
            raise DigestMismatch(f"the SHA-256 stated of {file.path} is false", path=file.path)
        if file.chunk_count == 1:
            self._small[file.sha256] = file.object
        return data
