"""Spans: what is requested. Consecutive missing chunks of about 256 KiB to 4 MiB, across file borders.

All pages of a download lie on one *line*, in the order in which they become known: entry i of a page has the line number
`base + i`. A span is an interval of the line; its chunks are those of the interval that are still missing, so a span
that was fetched in part names only its rest. Cuts depend on the pages and on what was held at the start alone: peers
that start alike cut alike, and so hold whole spans of each other's.

A span costs 32 bytes here, so 1 TB (250,000 spans of 4 MiB) costs 8 MB; a page's lengths go when it is complete.
Source: Mundinger, Weber and Weiss 2008: with 500 pieces and more the pipeline's fill costs below 2 %.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2phub.core.swarm import bitsets
from p2phub.digest import Digest
from p2phub.proto.limits import KIB, MIB, RUNS_PER_SPAN_MAX, SPAN_CHUNKS_MAX
from p2phub.proto.messages import Run

SPANS_WANTED = 512  # per release, where its size allows: the pipeline's fill then costs below 2 %
SPAN_BYTES_TARGET_MIN = 256 * KIB  # a request's own cost stays below 1 % of a 100 Mbit/s link's time
SPAN_BYTES_TARGET_MAX = 4 * MIB  # what one peer can hold up


@dataclass(frozen=True, slots=True)
class Span:
    """The still missing chunks of one span, as they are requested: chunk number 0 is the first entry of the first run."""

    index: int  # within its download
    runs: tuple[Run, ...]  # at most RUNS_PER_SPAN_MAX
    lengths: array[int]  # bytes per chunk, type code "I", in the order of the runs
    size_bytes: int  # of all chunks

    @property
    def chunk_count(self) -> int:
        return len(self.lengths)


def span_bytes_target(size_bytes: int) -> int:
    """How large the spans of a release of `size_bytes` shall be: 512 of them, within bounds."""
    return max(SPAN_BYTES_TARGET_MIN, min(SPAN_BYTES_TARGET_MAX, size_bytes // SPANS_WANTED))


class Page:
    """One page on the line: what is listed, and what of it is missing here."""

    __slots__ = ("base", "digest", "entry_count", "lengths", "missing")

    def __init__(self, digest: Digest, base: int, lengths: array[int], missing: int) -> None:
        self.digest = digest
        self.base = base  # line number of entry 0
        self.entry_count = len(lengths)
        self.lengths = lengths  # bytes per entry, 0: not part of the download; empty once the page is complete
        self.missing = missing  # set of entries

    def missing_within(self, start: int, stop: int) -> int:
        """The missing entries of [start, stop), as a set of entries."""
        return self.missing >> start << start & ((1 << stop) - 1)
