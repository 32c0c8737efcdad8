"""Spans: what is requested.

Consecutive missing chunks of about 256 KiB to 4 MiB, across file borders.

All pages of a download lie on one *line*, in the order in which they become known: entry i of a
page has the line number `base + i`. A span is an interval of the line; its chunks are those of the
interval that are still missing, so a span that was fetched in part names only its rest. Cuts depend
on the pages and on what was held at the start alone: peers that start alike cut alike, and so hold
whole spans of each other's.

A span costs 32 bytes here, so 1 TB (250,000 spans of 4 MiB) costs 8 MB; a page's lengths go when it
is complete.
Source: Mundinger, Weber and Weiss 2008: with 500 pieces and more the pipeline's fill costs below 2
%.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from p2phub.core.swarm import bitsets
from p2phub.digest import Digest
from p2phub.proto.limits import KIB, MIB, RUNS_PER_SPAN_MAX, SPAN_CHUNKS_MAX
from p2phub.proto.messages import Run

SPANS_WANTED = 512  # per release, where its size allows: the pipeline's fill then costs below 2 %
SPAN_BYTES_TARGET_MIN = 256 * KIB  # a request then costs below 1 % of 100 Mbit/s
SPAN_BYTES_TARGET_MAX = 4 * MIB  # what one peer can hold up


@dataclass(frozen=True, slots=True)
class Span:
    """The still missing chunks of one span, as they are requested: chunk number 0 is the first
    entry of the first run.
    """

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

    __slots__ = (
        "base", "digest", "entry_count", "first_span", "lengths", "missing", "single_count",
    )  # fmt: skip

    def __init__(self, digest: Digest, base: int, lengths: array[int], missing: int) -> None:
        self.digest = digest
        self.base = base  # line number of entry 0
        self.entry_count = len(lengths)
        # Bytes per entry; 0: not part of the download. Empty once the page is complete.
        self.lengths = lengths
        self.missing = missing  # set of entries
        # Each of the first so many entries is a span of its own: entry i is span first_span + i. So
        # it is with chunks as large as spans, and sets of entries are then sets of spans.
        self.single_count = 0
        self.first_span = 0

    def missing_within(self, start: int, stop: int) -> int:
        """The missing entries of [start, stop), as a set of entries."""
        return ((self.missing >> start) & ((1 << (stop - start)) - 1)) << start


class SpanPlanner:
    """Lays pages on the line and cuts it into spans; keeps what is missing."""

    def __init__(self, size_bytes: int, span_bytes: int | None = None) -> None:
        """span_bytes: how large spans shall be; None: as `span_bytes_target` says."""
        self.size_bytes = size_bytes  # expected in all
        self.pages: list[Page] = []
        self.is_closed = False  # no more pages will come
        self.missing_bytes = 0
        self.total_bytes = 0  # of all entries that are part of the download, held or missing
        self._target = span_bytes or span_bytes_target(size_bytes)
        self._bases: list[int] = []
        self._numbers: dict[Digest, int] = {}
        # Where in `pages` a page is; None: it is not known yet. Asked at every message.
        self.number_of: Callable[[Digest], int | None] = self._numbers.get
        self._end = 0  # line number after the last page
        self._starts = array("Q")  # by span index: its interval of the line
        self._stops = array("Q")
        self._first_pages = array("I")  # and the page in which it begins
        self._line = array("Q")  # the starts of all spans, ascending
        self._line_spans = array("I")  # which span begins there
        self._open = _OpenSpan()

    @property
    def held_bytes(self) -> int:
        return self.total_bytes - self.missing_bytes

    @property
    def is_complete(self) -> bool:
        """All pages are known and nothing of them is missing."""
        return self.is_closed and self.missing_bytes == 0

    def __len__(self) -> int:
        """Spans cut so far; their indexes are 0 to len - 1."""
        return len(self._starts)

    # ---- pages ---------------------------------------------------------------------------------

    def add(self, page: Digest, lengths: Sequence[int], held: int) -> list[int]:
        """Lay a page at the end of the line; the indexes of the spans that are whole by that.

        lengths: bytes per entry, 0 for what is no part of the download. held: set of entries.
        """
        assert not self.is_closed and page not in self._numbers
        wanted = 0
        for start, stop in _stretches(lengths):
            wanted |= bitsets.interval(start, stop)
        missing = wanted & ~held
        added = Page(page, self._end, array("I", lengths), missing)
        self._numbers[page] = len(self.pages)
        self.pages.append(added)
        self._bases.append(self._end)
        self._end += len(lengths)
        self.total_bytes += sum(lengths)
        first = len(self)
        for start, stop in bitsets.runs(missing):
            self._extend(added, start, stop)
        self._find_singles(added, first)
        if not missing:
            added.lengths = array("I")
        return list(range(first, len(self)))

    def is_in_tail(self, number: int, stop: int) -> bool:
        """Whether entries of a page before `stop` may lie in the span that is not cut yet."""
        return self._open.chunk_count > 0 and self.pages[number].base + stop > self._open.start

    def close_tail(self) -> list[int]:
        """Cut the last span where the line ends now."""
        first = len(self)
        self._cut()
        return list(range(first, len(self)))

    def _extend(self, page: Page, start: int, stop: int) -> None:
        """Take the missing run [start, stop) of the last page into the open span, cutting where it
        is full.
        """
        tail = self._open
        tail.run_count += 1
        for entry in range(start, stop):
            length = page.lengths[entry]
            is_full = (
                tail.size_bytes + length > self._target
                or tail.chunk_count >= SPAN_CHUNKS_MAX
                or tail.run_count > RUNS_PER_SPAN_MAX
            )
            if is_full and tail.chunk_count:
                self._cut()
                tail.run_count = 1
            if not tail.chunk_count:
                tail.start = page.base + entry
                tail.first_page = len(self.pages) - 1
            tail.chunk_count += 1
            tail.size_bytes += length
            tail.stop = page.base + entry + 1
            self.missing_bytes += length

    def _find_singles(self, page: Page, first: int) -> None:
        """Note whether all entries of a page that was laid on the line are spans of their own; the
        last one, which may still grow, is left out. first: the first span cut since.
        """
        singles = range(page.base, self._end - 1)
        while first < len(self) and self._starts[first] < page.base:
            first += 1  # it began in the page before
        if singles and self._starts[first:].tolist() == list(singles):
            page.first_span, page.single_count = first, len(singles)

    def _cut(self) -> None:
        tail = self._open
        if tail.chunk_count:
            self._line.append(tail.start)
            self._line_spans.append(len(self))
            self._starts.append(tail.start)
            self._stops.append(tail.stop)
            self._first_pages.append(tail.first_page)
        tail.chunk_count = tail.size_bytes = tail.run_count = 0

    # ---- spans ---------------------------------------------------------------------------------

    def pieces(self, index: int) -> Sequence[tuple[int, int]]:
        """What is missing of a span: (page number, set of entries), in order; nothing once it is
        complete.
        """
        start, stop, number = self._starts[index], self._stops[index], self._first_pages[index]
        found = []
        while start < stop:
            page = self.pages[number]
            end = page.base + page.entry_count
            last = stop if stop < end else end
            missing = page.missing_within(start - page.base, last - page.base)
            if missing:
                found.append((number, missing))
            start = end
            number += 1
        return found

    def is_span_complete(self, index: int) -> bool:
        return not self.pieces(index)

    def span(self, index: int) -> Span:
        """The missing chunks of a span, or the first RUNS_PER_SPAN_MAX runs of them."""
        runs: list[Run] = []
        lengths = array("I")
        for number, missing in self.pieces(index):
            page = self.pages[number]
            for start, stop in bitsets.runs(missing):
                if len(runs) == RUNS_PER_SPAN_MAX:
                    break
                runs.append(Run(page.digest, start, stop))
                lengths.extend(page.lengths[start:stop])
        return Span(index, tuple(runs), lengths, sum(lengths))

    def spans_within(self, number: int, start: int, stop: int) -> Sequence[int]:
        """Indexes of the spans with entries of [start, stop) of a page, in order of the line."""
        base = self.pages[number].base
        first = max(bisect_right(self._line, base + start) - 1, 0)
        last = bisect_left(self._line, base + stop)
        found = self._line_spans[first:last]
        if found and self._stops[found[0]] <= base + start:
            return found[1:]
        return found

    def piece_at(self, number: int, entry: int) -> tuple[int | None, int | None]:
        """The span that an entry of a page lies in, if any, and what is missing of it: a set of
        entries of this page, or None where the span reaches into other pages.
        """
        page = self.pages[number]
        base = page.base
        at, line = base + entry, self._line
        # Spans are about equally long, so it is near here: a search would touch the whole line.
        near = at * len(line) // self._end
        if near < len(line) - 1 and line[near] <= at < line[near + 1]:
            position = near
        else:
            position = bisect_right(line, at) - 1
            if position < 0:
                return None, None
        index = self._line_spans[position]
        start, stop = self._line[position] - base, self._stops[index] - base
        if stop <= entry:
            return None, None
        if start < 0 or stop > page.entry_count:
            return index, None
        return index, (page.missing >> start & (1 << stop - start) - 1) << start

    def split(self, index: int, number: int, start: int, stop: int) -> list[int]:
        """Cut a span so that entries [start, stop) of a page are a span of their own; the new
        indexes.

        The first part keeps the old index.
        """
        base = self.pages[number].base
        end = self._stops[index]
        cuts = [cut for cut in (base + start, base + stop) if self._starts[index] < cut < end]
        new = []
        last = index
        for cut in cuts:
            self._stops[last] = cut
            last = len(self)
            self._starts.append(cut)
            self._stops.append(end)
            self._first_pages.append(bisect_right(self._bases, cut) - 1)
            position = bisect_left(self._line, cut)
            self._line.insert(position, cut)
            self._line_spans.insert(position, last)
            new.append(last)
        return new

    # ---- what is held --------------------------------------------------------------------------

    def mark_held(self, number: int, entries: int) -> int:
        """Entries (a set) of a page are held now; how many bytes of them were missing."""
        page = self.pages[number]
        gained = page.missing & entries
        if not gained:
            return 0
        size_bytes = sum(sum(page.lengths[start:stop]) for start, stop in bitsets.runs(gained))
        page.missing ^= gained
        self.missing_bytes -= size_bytes
        if not page.missing:
            page.lengths = array("I")
        return size_bytes


class _OpenSpan:
    """The span at the end of the line that may still grow."""

    __slots__ = ("chunk_count", "first_page", "run_count", "size_bytes", "start", "stop")

    def __init__(self) -> None:
        self.chunk_count = 0
        self.run_count = 0  # in it, the run that is being taken included
        self.size_bytes = 0
        self.first_page = 0
        self.start = 0  # line numbers
        self.stop = 0


def _stretches(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Intervals of `lengths` without zeros."""
    are_wanted = bytes(map(bool, lengths))
    stop = 0
    while (start := are_wanted.find(True, stop)) >= 0:
        stop = are_wanted.find(False, start)
        if stop < 0:
            stop = len(lengths)
        yield start, stop
