"""From a folder to a manifest: every file is read once, cut, and named.

Nothing of the store is needed for it, and nothing is written: `Store.take` and `Store.put` are
given what comes out. What a file holds decides how it is cut, so the same folder gives the same
manifest on every machine. A file or folder that changes meanwhile ends it, with nothing half-done.

Source: SPEC.md sections 4 to 6.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from p2phub.core.content.cutting import cut_segments
from p2phub.core.content.release import ReleaseDocuments, ReleaseTerms, release_documents
from p2phub.digest import EMPTY, Digest, digest
from p2phub.errors import FileChanged, TooLarge
from p2phub.proto.content import ObjectRecord, SegmentRef
from p2phub.proto.limits import DOCUMENT_BYTES_MAX, OBJECT_SEGMENTS_MAX
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import SourceFile
from p2phub.store.folder import FolderListing, FoundFile, PassedOver, list_folder
from p2phub.store.reading import CutFile, Pipeline, Stopped

THREADS_MAX = 8  # pipelines of three threads and PIPELINE_BYTES each
BATCH_FILES, BATCH_BYTES = 256, 4 << 20  # small files that a reader takes and gives back together
RESULTS_MAX = 16  # batches under way or not yet taken by the caller
PUT_BYTES = 4 << 20  # of documents that are handed on together
POLL_S = 0.1  # between two looks at `cancelled` and two reports of progress


@dataclass(frozen=True, slots=True)
class IngestedFile:
    """One file, read whole: what a manifest says of it, and the documents that name its chunks."""

    source: SourceFile
    rule: str  # by which it was cut
    object_record: ObjectRecord | None  # None: no chunk or one, no record
    documents: tuple[bytes, ...]  # its segments in order, then its object record
    lengths: array[int]  # bytes per chunk, type code "I"

    @property
    def record(self) -> FileRecord:
        return self.source.record


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an ingest is."""

    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int


@dataclass(frozen=True, slots=True)
class IngestResult:
    """A folder as a release, not yet held by any store."""

    release: ReleaseDocuments
    sources: tuple[SourceFile, ...]  # in order of their paths
    documents: tuple[bytes, ...]  # all that `put` was not given: without `put` every document
    passed_over: tuple[PassedOver, ...]  # tell the user
    chunk_count: int
    rules: dict[str, int] = field(default_factory=dict)  # files of more than one chunk per rule

    @property
    def digest(self) -> Digest:
        """The manifest's: the content id."""
        return self.release.digest

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.release.manifest.data_size


def ingest_folder(
    folder: Path,
    terms: ReleaseTerms,
    *,
    put: Callable[[Sequence[bytes]], object] | None = None,
    threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> IngestResult:
    """Read a folder and name all it holds.

    put: given the documents as they come (`Store.put`), so that those of a huge release are never
    in memory at once; if the ingest then fails they are left over, and named by nothing. threads:
    files that are read side by side; one per core by default. on_progress, cancelled: called from
    this thread, about ten times a second. Raises Stopped when `cancelled` says so, else
    NothingToPublish, HostilePath, UnpublishableFile, FileChanged, NoSuchFile, TooLarge, UsageError.
    """
    return ingest_listed(
        lambda: list_folder(folder),
        terms,
        put=put,
        threads=threads,
        on_progress=on_progress,
        cancelled=cancelled,
    )


def ingest_listed(
    list_files: Callable[[], FolderListing],
    terms: ReleaseTerms,
    *,
    put: Callable[[Sequence[bytes]], object] | None = None,
    threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> IngestResult:
    """As `ingest_folder`, of files listed in another way. list_files: called before and after, and
    must find the same.
    """
    listing = list_files()
    kept: list[bytes] = []
    waiting: list[bytes] = []
    waiting_bytes = chunk_count = 0
    sources: list[SourceFile] = []
    rules: dict[str, int] = {}
    with closing(
        ingest_files(listing, threads=threads, on_progress=on_progress, cancelled=cancelled)
    ) as files:
        for file in files:
            sources.append(file.source)
            chunk_count += file.record.chunk_count
            if file.object_record is None:
                continue
            rules[file.rule] = rules.get(file.rule, 0) + 1
            if put is None:
                kept.extend(file.documents)
                continue
            waiting.extend(file.documents)
            waiting_bytes += sum(map(len, file.documents))
            if waiting_bytes >= PUT_BYTES:
                put(waiting)
                waiting, waiting_bytes = [], 0
    sources.sort(key=lambda source: source.record.path.encode("utf-8"))
    release = release_documents([source.record for source in sources], terms)
    if list_files() != listing:
        raise FileChanged(
            f"{listing.folder} changed while it was read. Nothing was published; wait until nobody "
            "writes to it and run the command again",
            path=str(listing.folder),
        )
    if put is None:
        kept += [*release.pages, release.root]
    else:
        put([*waiting, *release.pages, release.root])
    return IngestResult(
        release, tuple(sources), tuple(kept), listing.passed_over, chunk_count, rules
    )


def ingest_files(
    listing: FolderListing,
    *,
    threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Generator[IngestedFile, None, None]:
    """Each file of a listing, as soon as it is read, in any order.

    Close the iterator to stop early. Raises as `ingest_folder`.
    """
    work = _Work(listing)
    wanted = min(threads or os.cpu_count() or 1, THREADS_MAX)
    readers = [
        threading.Thread(target=work.read, name=f"ingest-{number}", daemon=True)
        for number in range(min(wanted, work.batches_total))
    ]
    for reader in readers:
        reader.start()
    try:
        yield from work.results(
            on_progress or (lambda progress: None), cancelled or (lambda: False)
        )
    finally:
        work.stop()
        for reader in readers:
            reader.join()


class _Work:
    """The files that several readers share, and what they have found."""

    def __init__(self, listing: FolderListing) -> None:
        self._folder = listing.folder
        self._bytes_total, self._files_total = listing.size, len(listing.files)
        batches = list(_batches(listing.files))
        self.batches_total = len(batches)
        self._waiting = SimpleQueue[list[FoundFile]]()
        for batch in batches:
            self._waiting.put(batch)
        self._found: SimpleQueue[list[IngestedFile] | BaseException] = SimpleQueue()
        self._room = threading.Semaphore(RESULTS_MAX)  # batches under way or not yet taken
        self._is_stopped = threading.Event()
        self._lock = threading.Lock()
        self._bytes_done = 0  # changed under _lock

    def results(
        self, on_progress: Callable[[Progress], None], cancelled: Callable[[], bool]
    ) -> Iterator[IngestedFile]:
        """What the readers find, until there is no more."""
        files_done = batches_done = 0
        while batches_done < self.batches_total:
            on_progress(
                Progress(self._bytes_done, self._bytes_total, files_done, self._files_total)
            )
            if cancelled():
                raise Stopped
            found = self._next()
            if found is None:
                continue
            if isinstance(found, BaseException):
                raise found
            yield from found
            self._room.release()
            batches_done += 1
            files_done += len(found)
        on_progress(Progress(self._bytes_done, self._bytes_total, files_done, self._files_total))

    def read(self) -> None:
        """What each reader runs."""
        try:
            with Pipeline(self._count) as pipeline:
                while self._room.acquire() and not self._is_stopped.is_set():
                    batch = self._waiting.get_nowait()
                    self._found.put([self._ingested(pipeline, file) for file in batch])
        except (Empty, Stopped):
            pass  # all files are taken, or nobody wants them
        except BaseException as error:
            self._found.put(error)

    def stop(self) -> None:
        """End all readers soon."""
        self._is_stopped.set()
        self._room.release(THREADS_MAX)

    def _next(self) -> list[IngestedFile] | BaseException | None:
        try:
            return self._found.get(timeout=POLL_S)
        except Empty:
            return None

    def _count(self, size: int) -> None:
        if self._is_stopped.is_set():
            raise Stopped
        with self._lock:
            self._bytes_done += size

    def _ingested(self, pipeline: Pipeline, found: FoundFile) -> IngestedFile:
        path = found.place or self._folder / found.path
        return ingested(found.path, path, pipeline.read(path, found.stamp))


def _batches(files: Sequence[FoundFile]) -> Iterator[list[FoundFile]]:
    """Work for one reader at a time.

    The largest first, so that no reader works alone for long at the end.
    """
    batch: list[FoundFile] = []
    size = 0
    for file in sorted(files, key=lambda file: -file.stamp.size):
        if batch and (len(batch) >= BATCH_FILES or size + file.stamp.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.stamp.size
    if batch:
        yield batch


def ingested(name: str, path: Path, cut: CutFile) -> IngestedFile:
    """The records of a file that was cut. Raises TooLarge where its record would be.

    name: its path in the release. path: absolute.
    """
    size, count = cut.stamp.size, len(cut.lengths)
    record: ObjectRecord | None = None
    documents: list[bytes] = []
    if count == 0:
        name_of_bytes = EMPTY
    elif count == 1:
        name_of_bytes = cut.digests
    else:
        segments: list[SegmentRef] = []
        for segment in cut_segments(cut.digests, cut.lengths):
            encoded = segment.encode()
            segments.append(
                SegmentRef(digest(encoded), len(encoded), len(segment), segment.data_size)
            )
            documents.append(encoded)
        record = ObjectRecord(cut.rule, size, cut.sha256, tuple(segments))
        documents.append(record.encode())
        if len(segments) > OBJECT_SEGMENTS_MAX or len(documents[-1]) > DOCUMENT_BYTES_MAX:
            raise TooLarge(f"{path} is too large for one file: split it", path=str(path), size=size)
        name_of_bytes = digest(documents[-1])
    source = SourceFile(path, cut.stamp, FileRecord(name, size, cut.sha256, name_of_bytes, count))
    return IngestedFile(source, cut.rule, record, tuple(documents), cut.lengths)
