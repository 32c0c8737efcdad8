"""Spans on the disk: the chunks of runs over pages, read and written in contiguous stretches.

One pread or pwrite per stretch, then or before it one BLAKE3 per chunk; no byte is copied in
Python. Both release the interpreter lock, so that lanes run side by side.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from p2phub.digest import Digest, digest
from p2phub.errors import CorruptChunk, NotHeld, WrongChunk
from p2phub.proto.messages import Run
from p2phub.store.holdings import Holdings
from p2phub.store.object_table import Place
from p2phub.store.pages import UNKNOWN_LENGTH, Page
from p2phub.store.parts import Parts
from p2phub.store.singles import Singles


@dataclass(frozen=True, slots=True)
class Stretch:
    """Chunks [first, stop) of a span that lie one after another."""

    first: int
    stop: int
    page: Page
    entry: int  # of `first`, within the page
    places: tuple[Place, ...]  # where they lie; none: each by its digest, in packs for most


class Span:
    """The chunks of `runs`: their names and lengths."""

    def __init__(self, holdings: Holdings, runs: Sequence[Run]) -> None:
        self.lengths = array("I")
        self._holdings = holdings
        self._runs: list[tuple[int, Page, Run]] = []  # first chunk of the run within the span
        for run in runs:
            page = holdings.pages.get(run.page)
            if not 0 <= run.start <= run.stop <= len(page):
                raise NotHeld(f"the page {run.page.hex()} has no entries up to {run.stop}")
            self._runs.append((len(self.lengths), page, run))
            self.lengths.extend(page.lengths[run.start : run.stop])
        if UNKNOWN_LENGTH in self.lengths:
            raise NotHeld(
                "a file page does not state how long an object record is: ask for it by name"
            )
        self._offsets = array("Q", accumulate(self.lengths, initial=0))

    def _size(self, first: int, stop: int, given: int) -> None:
        if not 0 <= first <= stop <= len(self.lengths):
            raise ValueError(f"the span has no chunks [{first}, {stop})")
        if self._offsets[stop] - self._offsets[first] != given:
            raise ValueError("the bytes given are not as many as those chunks have")


class DiskSpanReader(Span):
    """See `SpanReader`."""

    def __init__(self, holdings: Holdings, runs: Sequence[Run]) -> None:
        super().__init__(holdings, runs)
        self._singles = Singles(holdings)
        self._stretches = [
            s for first, page, run in self._runs for s in self._locate(first, page, run)
        ]

    def read(self, first: int, stop: int, into: memoryview) -> None:
        self._size(first, stop, len(into))
        base = self._offsets[first]
        for stretch in self._stretches:
            begin, end = max(first, stretch.first), min(stop, stretch.stop)
            if begin < end:
                view = into[self._offsets[begin] - base : self._offsets[end] - base]
                self._read(stretch, begin, end, view)

    def _read(self, stretch: Stretch, first: int, stop: int, into: memoryview) -> None:
        page, entry = stretch.page, stretch.entry + first - stretch.first
        if not stretch.places:
            self._read_singly(page, entry, first, stop, into)
            return
        is_corrupt = False
        for object, segment in stretch.places:
            if not object.holds(segment.number, entry, entry + stop - first):
                continue  # no more
            try:
                got = self._holdings.read(object, segment.offset + page.offsets[entry], into)
            except NotHeld:
                continue
            wrong = self._first_wrong(page, entry, into, stop - first)
            if wrong is None:
                return
            bad = self._part(into, first, first + wrong)
            self._holdings.damaged(object, segment, entry + wrong, bad if got else b"")
            is_corrupt = True
        self._read_elsewhere(page, entry, first, stop, into, is_corrupt)

    def _first_wrong(self, page: Page, entry: int, data: memoryview, count: int) -> int | None:
        """Which of `count` chunks is the first that is not what the page says; None if all are
        right.
        """
        digests, lengths = page.digests, page.lengths
        position = 0
        for number in range(entry, entry + count):
            end = position + lengths[number]
            if digest(data[position:end]) != digests[number * 32 : number * 32 + 32]:
                return number - entry
            position = end
        return None

    def _read_elsewhere(
        self, page: Page, entry: int, first: int, stop: int, into: memoryview, is_corrupt: bool
    ) -> None:
        """What the places noted at the start did not give, chunk by chunk from whoever holds it
        now.
        """
        for number in range(first, stop):
            at = entry + number - first
            view = self._part(into, first, number)
            for object, segment in self._holdings.objects.places(page.digest):
                if not object.holds(segment.number, at, at + 1):
                    continue
                try:
                    self._holdings.read(object, segment.offset + page.offsets[at], view)
                except NotHeld:
                    continue
                if digest(view) == page.digest_of(at):
                    break
                self._holdings.damaged(object, segment, at, view)
                is_corrupt = True
            else:
                try:
                    view[:] = self._holdings.get(page.digest_of(at))
                except NotHeld:
                    if not is_corrupt:
                        raise
                    raise CorruptChunk(
                        f"chunk {at} of {page.digest.hex()} is not as it was written: it was"
                        " cleared and is fetched again; check the disk",
                        page=page.digest.hex(), entry=at, index=number,
                    ) from None  # fmt: skip

    def _read_singly(self, page: Page, entry: int, first: int, stop: int, into: memoryview) -> None:
        self._singles.read(
            [
                (page.digest_of(entry + number - first), self._part(into, first, number))
                for number in range(first, stop)
            ]
        )

    def _part(self, into: memoryview, first: int, number: int) -> memoryview:
        base = self._offsets[first]
        return into[self._offsets[number] - base : self._offsets[number + 1] - base]

    def _locate(self, first: int, page: Page, run: Run) -> list[Stretch]:
        count = run.stop - run.start
        if not page.is_segment:
            left = self._singles.find([page.digest_of(i) for i in range(run.start, run.stop)])
            if left and len(self._holdings.has(list(left), is_durable=False)) < len(left):
                raise NotHeld(f"chunks of the page {page.digest.hex()} are not held")
            return [Stretch(first, first + count, page, run.start, ())]
        places = self._holdings.objects.places(page.digest)
        whole = tuple(p for p in places if p.object.holds(p.segment.number, run.start, run.stop))
        if whole:
            return [Stretch(first, first + count, page, run.start, whole)]
        stretches: list[Stretch] = []
        for index in range(run.start, run.stop):
            some = tuple(p for p in places if p.object.holds(p.segment.number, index, index + 1))
            if not some and not self._holdings.has([page.digest_of(index)], is_durable=False):
                raise NotHeld(f"chunk {index} of {page.digest.hex()} is not held", entry=index)
            number = first + index - run.start
            last = stretches[-1] if stretches else None
            if last and some and last.places == some:
                stretches[-1] = Stretch(last.first, number + 1, page, last.entry, some)
            else:
                stretches.append(Stretch(number, number + 1, page, index, some))
        return stretches


class DiskSpanWriter(Span):
    """See `SpanWriter`."""

    def __init__(self, holdings: Holdings, parts: Parts, runs: Sequence[Run]) -> None:
        super().__init__(holdings, runs)
        self._parts = parts
        self._stretches: list[Stretch] = []
        for first, page, run in self._runs:
            places = tuple(holdings.objects.places(page.digest)) if page.is_segment else ()
            open_places = tuple(
                p for p in places if p.object.row.kind == "part" and not p.object.is_whole
            )
            if page.is_segment and not open_places and not any(p.object.is_whole for p in places):
                raise NotHeld(f"no part is open for the segment {page.digest.hex()}")
            self._stretches.append(Stretch(first, first + len(run), page, run.start, open_places))

    def write(self, first: int, stop: int, data: memoryview) -> None:
        self._size(first, stop, len(data))
        base = self._offsets[first]
        for stretch in self._stretches:
            begin, end = max(first, stretch.first), min(stop, stretch.stop)
            if begin < end:
                self._write(
                    stretch,
                    begin,
                    end,
                    data[self._offsets[begin] - base : self._offsets[end] - base],
                )

    def _write(self, stretch: Stretch, first: int, stop: int, data: memoryview) -> None:
        page, entry = stretch.page, stretch.entry + first - stretch.first
        offsets, base = self._offsets, self._offsets[first]
        right = first
        single: list[tuple[int, Digest, memoryview]] = []
        while right < stop:
            view = data[offsets[right] - base : offsets[right + 1] - base]
            at = entry + right - first
            name = page.digests[at * 32 : at * 32 + 32]
            if digest(view) != name:
                break
            if not page.is_segment:
                single.append((at, name, view))
            right += 1
        if single:
            self._parts.pack(page.digest, single)
        if page.is_segment and right > first:
            # What was right before the first wrong chunk is kept: the liar's earlier work was
            # honest.
            good = data[: offsets[right] - base]
            for object, segment in stretch.places:
                offset = segment.offset + page.offsets[entry]
                self._parts.write(object, segment, entry, entry + right - first, offset, good)
        if right < stop:
            at = entry + right - first
            raise WrongChunk(
                f"bytes do not match the chunk {page.digest_of(at).hex()} they were sent as",
                index=right, page=page.digest.hex(), entry=at,
            )  # fmt: skip
