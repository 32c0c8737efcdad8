"""Manifests: what one release holds.

The root, at most 64 KiB, says what the release is and names file pages; a file page holds at most
8,192 file records sorted by path. The BLAKE3 of the root is the release's content id: it changes
with every byte of every file, and with nothing else (no time, no publisher, no name), so two
publishers of the same files name the same content.

Source: SPEC.md section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2phub.digest import DIGEST_BYTES, EMPTY, Digest, digest
from p2phub.errors import ContentError, MalformedDocument
from p2phub.proto.codec import Value, decode, encode
from p2phub.proto.content import OBJECT_TYPE, are_numbers, document, rows, text
from p2phub.proto.file_paths import check_path, check_together
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    FILE_PAGE_BORDER_MASK,
    FILE_PAGE_RECORDS_MAX,
    FILE_PAGE_RECORDS_MIN,
    FILES_MAX,
    LICENSE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    OBJECT_BYTES_MAX,
    REFERENCE_BYTES_MAX,
    REFERENCES_MAX,
    RELEASE_BYTES_MAX,
    TAG_BYTES_MAX,
    TAGS_MAX,
)

MANIFEST_TYPE = "p2phub/manifest"
FILE_PAGE_TYPE = "p2phub/files"
KINDS = ("dataset", "model")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a release."""

    path: str  # relative, '/' between components, passes check_path
    size: int  # bytes
    sha256: bytes  # of the whole file: a claim until recomputed
    object: Digest  # the object record's name; of one chunk: the chunk's; of no bytes: EMPTY
    chunk_count: int  # 0 for an empty file, 1: `object` names the chunk itself

    @property
    def has_record(self) -> bool:
        """Whether `object` names an object record, not the bytes themselves."""
        return self.chunk_count > 1


@dataclass(frozen=True, slots=True)
class FilePageRef:
    """What a manifest root says of one file page."""

    digest: Digest
    size: int  # bytes of the page document
    file_count: int
    data_size: int  # bytes of all its files


@dataclass(frozen=True, slots=True)
class Manifest:
    """The root document of one release."""

    kind: str  # one of KINDS
    license: str  # SPDX expression, or "" where unknown
    tags: tuple[str, ...]
    base: tuple[str, ...]  # references to the models this one was made from
    datasets: tuple[str, ...]  # references to what it was trained on
    card: str  # path of the file that describes it, or ""
    pages: tuple[FilePageRef, ...]

    @property
    def file_count(self) -> int:
        return sum(page.file_count for page in self.pages)

    @property
    def data_size(self) -> int:
        return sum(page.data_size for page in self.pages)

    def encode(self) -> bytes:
        pages: list[Value] = [[p.digest, p.size, p.file_count, p.data_size] for p in self.pages]
        return encode(
            {
                "base": list(self.base),
                "card": self.card,
                "datasets": list(self.datasets),
                "kind": self.kind,
                "license": self.license,
                "pages": pages,
                "tags": list(self.tags),
                "type": MANIFEST_TYPE,
                "v": 1,
            }
        )

    @property
    def digest(self) -> Digest:
        return digest(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Raises MalformedDocument, HostilePath or TooLarge."""
        keys = ("base", "card", "datasets", "kind", "license", "pages", "tags")
        fields = document(data, MANIFEST_TYPE, keys, MANIFEST_BYTES_MAX)
        kind, card = text(fields, "kind"), text(fields, "card", 1024)
        if kind not in KINDS:
            raise MalformedDocument(
                f"a manifest is of a kind unknown to this version: {kind[:40]!r}"
            )
        if card:
            check_path(card)
        manifest = cls(
            kind,
            text(fields, "license", LICENSE_BYTES_MAX),
            _texts(fields, "tags", TAGS_MAX, TAG_BYTES_MAX),
            _texts(fields, "base", REFERENCES_MAX, REFERENCE_BYTES_MAX),
            _texts(fields, "datasets", REFERENCES_MAX, REFERENCE_BYTES_MAX),
            card,
            tuple(_page_ref(row) for row in rows(fields, "pages")),
        )
        if not 1 <= manifest.file_count <= FILES_MAX or manifest.data_size > RELEASE_BYTES_MAX:
            raise MalformedDocument("a manifest names no file, or more than a release may hold")
        return manifest


@dataclass(frozen=True, slots=True)
class FilePage:
    """A page of file records, sorted by the bytes of their paths."""

    files: tuple[FileRecord, ...]

    @property
    def data_size(self) -> int:
        return sum(file.size for file in self.files)

    def encode(self) -> bytes:
        files: list[Value] = [
            [f.path, f.size, f.sha256, f.object, f.chunk_count] for f in self.files
        ]
        return encode({"files": files, "type": FILE_PAGE_TYPE, "v": 1})

    @classmethod
    def decode(cls, data: bytes) -> FilePage:
        """Raises MalformedDocument, HostilePath or TooLarge."""
        fields = document(data, FILE_PAGE_TYPE, ("files",), DOCUMENT_BYTES_MAX)
        files = tuple(_file_record(row) for row in rows(fields, "files"))
        if not 1 <= len(files) <= FILE_PAGE_RECORDS_MAX:
            raise MalformedDocument("a file page is empty or too long")
        _check_sorted(files)
        return cls(files)


def check_pages(manifest: Manifest, pages: Sequence[FilePage]) -> list[FileRecord]:
    """All file records of a manifest, after the checks that need all its pages: counts, order,
    paths that collide.

    Raises MalformedDocument or HostilePath.
    """
    for reference, page in zip(manifest.pages, pages, strict=True):
        if reference.file_count != len(page.files) or reference.data_size != page.data_size:
            raise MalformedDocument("a file page is not what its manifest says of it")
    files = [file for page in pages for file in page.files]
    _check_sorted(files)
    check_together(file.path for file in files)
    if manifest.card and not any(file.path == manifest.card for file in files):
        raise MalformedDocument("the manifest's card is not among its files")
    return files


def cut_pages(files: Iterable[FileRecord]) -> list[FilePage]:
    """File pages for `files`, any order, whose borders depend on the paths near them only.

    So a file added in the middle changes one page, not all that follow.
    """
    pages: list[FilePage] = []
    page: list[FileRecord] = []
    size = 0
    for file in sorted(files, key=_path_bytes):
        row = len(encode([file.path, file.size, file.sha256, file.object, file.chunk_count]))
        if page and (len(page) >= FILE_PAGE_RECORDS_MAX or size + row > DOCUMENT_BYTES_MAX - 64):
            pages.append(FilePage(tuple(page)))
            page, size = [], 0
        page.append(file)
        size += row
        border = int.from_bytes(digest(_path_bytes(file))[:4], "big") & FILE_PAGE_BORDER_MASK == 0
        if border and len(page) >= FILE_PAGE_RECORDS_MIN:
            pages.append(FilePage(tuple(page)))
            page, size = [], 0
    if page:
        pages.append(FilePage(tuple(page)))
    return pages


def page_ref(page: FilePage) -> FilePageRef:
    encoded = page.encode()
    return FilePageRef(digest(encoded), len(encoded), len(page.files), page.data_size)


def document_kind(data: bytes) -> str | None:
    """Which document these bytes are: "manifest", "object", or None for plain bytes.

    A content id may name either; the bytes tell. Only a whole, valid envelope counts, so plain data
    is never taken for one by accident; who publishes a file that is a manifest byte for byte gets
    it read as one, which harms nobody.
    """
    if not data or data[0] & 0xF0 != 0x80 or len(data) > DOCUMENT_BYTES_MAX:
        return None
    try:
        value = decode(data, size_max=DOCUMENT_BYTES_MAX)
    except ContentError:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    return (
        {MANIFEST_TYPE: "manifest", OBJECT_TYPE: "object"}.get(kind)
        if isinstance(kind, str)
        else None
    )


def _path_bytes(file: FileRecord) -> bytes:
    return file.path.encode("utf-8")


def _check_sorted(files: Sequence[FileRecord]) -> None:
    keys: Iterator[bytes] = map(_path_bytes, files)
    last = next(keys)
    for key in keys:
        if key <= last:
            raise MalformedDocument("file records are not in order, or one is there twice")
        last = key


def _file_record(row: Value) -> FileRecord:
    if type(row) is list and len(row) == 5:
        path, size, sha256, name, chunk_count = row
        if (
            # The exact types: True is no number. A match statement took three times as long.
            type(path) is str
            and type(size) is type(chunk_count) is int
            and type(sha256) is type(name) is bytes
            and len(sha256) == len(name) == DIGEST_BYTES
            and 0 <= size <= OBJECT_BYTES_MAX
            and chunk_count <= size <= chunk_count * CHUNK_BYTES_MAX
            and (size > 0 or name == EMPTY)
        ):
            return FileRecord(check_path(path), size, sha256, name, chunk_count)
    raise MalformedDocument("a file record has a field that cannot be")


def _page_ref(row: Value) -> FilePageRef:
    match row:
        case [bytes(name), int(size), int(file_count), int(data_size)] if (
            len(name) == DIGEST_BYTES
            and are_numbers(size, file_count, data_size)
            and 0 < size <= DOCUMENT_BYTES_MAX
            and 0 < file_count <= FILE_PAGE_RECORDS_MAX
            and 0 <= data_size <= RELEASE_BYTES_MAX
        ):
            return FilePageRef(name, size, file_count, data_size)
    raise MalformedDocument("a manifest names a file page that cannot be")


def _texts(fields: dict[str, Value], key: str, count_max: int, bytes_max: int) -> tuple[str, ...]:
    values = rows(fields, key)
    if len(values) > count_max:
        raise MalformedDocument(f"{key}: more than {count_max}")
    return tuple(text({key: value}, key, bytes_max) for value in values)
