"""Spans over a store in memory: the contract of `SpanReader` and `SpanWriter`, chunk by chunk."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate

from p2phub.digest import digest
from p2phub.errors import NotHeld, WrongChunk
from p2phub.proto.messages import Run
from p2phub.store.memory_holdings import MemoryHoldings
from p2phub.store.pages import UNKNOWN_LENGTH, Page


class _Span:
    def __init__(self, holdings: MemoryHoldings, runs: Sequence[Run]) -> None:
        self._holdings = holdings
        self._entries: list[tuple[Page, int]] = []
        for run in runs:
            page = holdings.pages.get(run.page)
            if not 0 <= run.start <= run.stop <= len(page):
                raise NotHeld(f"the page {run.page.hex()} has no entries up to {run.stop}")
            self._entries += [(page, index) for index in range(run.start, run.stop)]
        self.lengths = array("I", (page.lengths[index] for page, index in self._entries))
        if UNKNOWN_LENGTH in self.lengths:
            raise NotHeld(
                "a file page does not state how long an object record is: ask for it by name"
            )
        self._offsets = array("Q", accumulate(self.lengths, initial=0))

    def _views(self, first: int, stop: int, data: memoryview) -> list[memoryview]:
        if not 0 <= first <= stop <= len(self.lengths):
            raise ValueError(f"the span has no chunks [{first}, {stop})")
        offsets, base = self._offsets, self._offsets[first]
        if offsets[stop] - base != len(data):
            raise ValueError("the bytes given are not as many as those chunks have")
        return [data[offsets[i] - base : offsets[i + 1] - base] for i in range(first, stop)]


class MemorySpanReader(_Span):
    """See `SpanReader`."""

    def __init__(self, holdings: MemoryHoldings, runs: Sequence[Run]) -> None:
        super().__init__(holdings, runs)
        for page, index in self._entries:
            if not holdings.holds(page, index):
                raise NotHeld(f"chunk {index} of {page.digest.hex()} is not held", entry=index)

    def read(self, first: int, stop: int, into: memoryview) -> None:
        for number, view in enumerate(self._views(first, stop, into), first):
            page, index = self._entries[number]
            view[:] = self._holdings.get(page.digest_of(index))


class MemorySpanWriter(_Span):
    """See `SpanWriter`."""

    def __init__(self, holdings: MemoryHoldings, runs: Sequence[Run]) -> None:
        super().__init__(holdings, runs)
        for page, _ in self._entries:
            if page.is_segment and not holdings.places(page):
                raise NotHeld(f"no part is open for the segment {page.digest.hex()}")

    def write(self, first: int, stop: int, data: memoryview) -> None:
        for number, view in enumerate(self._views(first, stop, data), first):
            page, index = self._entries[number]
            name = page.digest_of(index)
            if digest(view) != name:
                raise WrongChunk(
                    f"bytes do not match the chunk {name.hex()} they were sent as",
                    index=number, page=page.digest.hex(), entry=index,
                )  # fmt: skip
            self._holdings.write(page, index, view)
