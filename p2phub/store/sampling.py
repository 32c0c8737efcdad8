"""Which chunks stand in the sparse chunk index, by which others are found in other objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2phub.digest import DIGEST_BYTES, Digest
from p2phub.errors import ContentError, StoreError
from p2phub.store.holdings import Holdings
from p2phub.store.rows import SegmentRow

SAMPLE_BYTES = 256 << 10  # chunks this large are all in the chunk index
SAMPLE_MASK = 0x0F  # of the smaller ones every sixteenth, by the last bits of its digest


def sampled(digests: bytes, lengths: Sequence[int], indexes: Iterable[int]) -> list[int]:
    """Which of `indexes` are of chunks that stand in the sparse chunk index.

    digests: 32 bytes per chunk.
    """
    marks = digests[DIGEST_BYTES - 1 :: DIGEST_BYTES]
    return [i for i in indexes if not marks[i] & SAMPLE_MASK or lengths[i] >= SAMPLE_BYTES]


def samples(
    holdings: Holdings, segment: SegmentRow, indexes: Iterable[int]
) -> list[tuple[Digest, int]]:
    """Which chunks of a segment stand in the chunk index: (digest, number within the object)."""
    try:
        page = holdings.segment_page(segment)
    except (StoreError, ContentError):
        return []  # the page was lost meanwhile: its chunks are merely not found by the chunk index
    return [
        (page.digest_of(index), segment.first_chunk + index)
        for index in sampled(page.digests, page.lengths, indexes)
    ]
