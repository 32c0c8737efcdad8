"""Small real files as a store meets them: cut into chunks, with segments and an object record."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from p2phub.digest import EMPTY, Digest, digest, sha256
from p2phub.proto.content import CDC_RULE, ObjectRecord, Segment, SegmentRef
from p2phub.proto.manifest import FilePage, FileRecord, Manifest, page_ref
from p2phub.proto.messages import Run
from p2phub.store.base import SourceFile, Store
from p2phub.store.stamps import FileStamp


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True)
class SampleFile:
    """A file's bytes and how they are named."""

    data: bytes
    cuts: tuple[int, ...]  # length of each chunk
    segment_chunks: int = 8  # chunks per segment
    claim: bytes | None = None  # a false SHA-256, if any

    @cached_property
    def chunks(self) -> list[bytes]:
        found, start = [], 0
        for length in self.cuts:
            found.append(self.data[start : start + length])
            start += length
        assert start == len(self.data)
        return found

    @cached_property
    def segments(self) -> list[Segment]:
        groups = [
            self.chunks[start : start + self.segment_chunks]
            for start in range(0, len(self.chunks), self.segment_chunks)
        ]
        return [
            Segment(b"".join(map(digest, group)), array("I", map(len, group))) for group in groups
        ]

    @cached_property
    def pages(self) -> list[Digest]:
        return [digest(segment.encode()) for segment in self.segments]

    @cached_property
    def record(self) -> ObjectRecord:
        refs = []
        for segment in self.segments:
            encoded = segment.encode()
            refs.append(SegmentRef(digest(encoded), len(encoded), len(segment), segment.data_size))
        claim = self.claim or sha256(self.data)
        return ObjectRecord(CDC_RULE, len(self.data), claim, tuple(refs))

    @property
    def object(self) -> Digest:
        if len(self.chunks) > 1:
            return self.record.digest
        return digest(self.data) if self.data else EMPTY

    @property
    def documents(self) -> list[bytes]:
        if len(self.chunks) < 2:
            return []
        return [*(segment.encode() for segment in self.segments), self.record.encode()]

    def file_record(self, path: str) -> FileRecord:
        claim = self.claim or sha256(self.data)
        return FileRecord(path, len(self.data), claim, self.object, len(self.chunks))

    def runs(self) -> list[Run]:
        pairs = zip(self.pages, self.segments, strict=True)
        return [Run(page, 0, len(segment)) for page, segment in pairs]

    def source(self, path: Path) -> SourceFile:
        """Write it to `path` and say what an ingest would say of it."""
        path.write_bytes(self.data)
        return SourceFile(path, FileStamp.of(path.stat()), self.file_record(path.name))


def sample(size: int, *, chunk: int = 1000, seed: int = 0, segment_chunks: int = 8) -> SampleFile:
    """A file of `size` random bytes in chunks of `chunk`, the last of which may be shorter."""
    whole, rest = divmod(size, chunk)
    cuts = (chunk,) * whole + ((rest,) if rest else ())
    return SampleFile(some_bytes(size, seed), cuts, segment_chunks)


def manifest_of(files: dict[str, SampleFile]) -> tuple[Manifest, FilePage]:
    """A release of one file page."""
    records = tuple(files[path].file_record(path) for path in sorted(files))
    page = FilePage(records)
    return Manifest("model", "MIT", (), (), (), "", (page_ref(page),)), page


def fetch(store: Store, file: SampleFile, folder: Path | None = None) -> None:
    """All of a file into an open part, durable, not finished."""
    store.put(file.documents)
    store.open_part(file.object, folder=folder)
    writer = store.span_writer(file.runs())
    writer.write(0, len(file.chunks), memoryview(file.data))
    store.checkpoint()


def read_all(store: Store, file: SampleFile) -> bytes:
    """Every chunk through spans."""
    data = bytearray(len(file.data))
    reader = store.span_reader(file.runs())
    reader.read(0, len(file.chunks), memoryview(data))
    return bytes(data)


def runs_of_bits(held: bytes, count: int) -> list[int]:
    """Indexes of set bits, the slow and readable way; none for a page that is not held."""
    if not held:
        return []
    return [index for index in range(count) if held[index // 8] >> (7 - index % 8) & 1]
