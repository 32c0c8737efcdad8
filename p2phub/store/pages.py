"""Documents that list chunks, decoded once and remembered: what the have-bits of a page are about.

Does not say what is held; only what a page lists.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2phub.digest import DIGEST_BYTES, Digest
from p2phub.errors import MalformedDocument
from p2phub.proto.content import OBJECT_TYPE, SEGMENT_TYPE, ObjectRecord, Segment, document_type
from p2phub.proto.manifest import FILE_PAGE_TYPE, MANIFEST_TYPE, FilePage, Manifest
from p2phub.store.cache import Cache

PAGES_BYTES_MAX = 16 << 20  # decoded: 45 segments of 8,192 chunks, or 380 GB of tensors
UNKNOWN_LENGTH = 0xFFFFFFFF  # a file page does not say how long an object record is


@dataclass(frozen=True, slots=True)
class Page:
    """What one page lists."""

    digest: Digest
    is_segment: bool
    digests: bytes  # 32 bytes per entry
    lengths: array[int]  # bytes per entry or UNKNOWN_LENGTH, type code "I"
    offsets: array[int]  # of a segment: where each chunk begins, and the end, type code "Q"

    def __len__(self) -> int:
        return len(self.lengths)

    def digest_of(self, index: int) -> Digest:
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


def decode_page(name: Digest, data: bytes) -> Page:
    """The page in a document's bytes. Raises MalformedDocument if they are no page."""
    match document_type(data):
        case "p2phub/segment":
            segment = Segment.decode(data)
            return Page(name, True, segment.digests, segment.lengths, segment.offsets())
        case "p2phub/object":
            refs = ObjectRecord.decode(data).segments
            rows = [(ref.digest, ref.size) for ref in refs]
        case "p2phub/files":
            rows = _file_rows(FilePage.decode(data))
        case "p2phub/manifest":
            rows = [(ref.digest, ref.size) for ref in Manifest.decode(data).pages]
        case _:
            raise MalformedDocument("these bytes are not a page: they list no chunks")
    return _page_of(name, rows)


def _file_rows(page: FilePage) -> list[tuple[Digest, int]]:
    return [
        (file.object, UNKNOWN_LENGTH if file.chunk_count > 1 else file.size) for file in page.files
    ]


def _page_of(name: Digest, rows: Sequence[tuple[Digest, int]]) -> Page:
    lengths = array("I", (size for _, size in rows))
    return Page(name, False, b"".join(digest for digest, _ in rows), lengths, array("Q"))


assert (SEGMENT_TYPE, OBJECT_TYPE) == ("p2phub/segment", "p2phub/object")
assert (FILE_PAGE_TYPE, MANIFEST_TYPE) == ("p2phub/files", "p2phub/manifest")


class Pages:
    """Decoded pages by name."""

    def __init__(self, get: Callable[[Digest], bytes]) -> None:
        self._get = get
        self._cache: Cache[Digest, Page] = Cache(PAGES_BYTES_MAX)

    def get(self, name: Digest) -> Page:
        """Raises NotHeld, CorruptChunk, MalformedDocument."""
        page = self._cache.get(name)
        if page is None:
            page = self._remember(decode_page(name, self._get(name)))
        return page

    def files(self, name: Digest) -> FilePage:
        """The file page of that name with its paths, which are not remembered. Raises as `get`."""
        page = FilePage.decode(self._get(name))
        self._remember(_page_of(name, _file_rows(page)))
        return page

    def _remember(self, page: Page) -> Page:
        self._cache.put(page.digest, page, len(page) * (DIGEST_BYTES + 12) + 200)
        return page

    def drop(self, name: Digest) -> None:
        self._cache.drop(name)
