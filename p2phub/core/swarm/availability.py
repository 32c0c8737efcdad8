"""Who holds which spans, and how rare each span is.

Rarity is kept as bit planes: bit s of plane k is bit k of the number of peers that hold span s
whole. A peer's whole set is added or taken away with a ripple carry, and the rarest of any set of
spans is found by walking the planes from the highest: a dozen operations on integers, whatever the
number of spans that changed. Nothing is ever sorted.

A peer holds a span whole if it holds all chunks of it that are *still missing* here; it holds it in
part if some.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.spans import SpanPlanner


class Holdings:
    """What one peer holds."""

    __slots__ = ("pages", "part", "whole")

    def __init__(self) -> None:
        self.pages: dict[int, int] = {}  # page number -> set of entries; no complete pages
        self.whole = 0  # set of spans
        self.part = 0  # set of spans held in part, disjoint from whole


class Rarity:
    """How many peers hold each span."""

    def __init__(self) -> None:
        self._planes: list[int] = []
        # To be added before anybody looks: what many peers say of different spans is one addition.
        self._added = 0

    def add(self, spans: int) -> None:
        """One more peer holds each of these spans."""
        if self._added & spans:
            self._count_added()
        self._added |= spans

    def _count_added(self) -> None:
        carry, position = self._added, 0
        self._added = 0
        while carry:
            if position == len(self._planes):
                self._planes.append(0)
            plane = self._planes[position]
            self._planes[position] = plane ^ carry
            carry &= plane
            position += 1

    def remove(self, spans: int) -> None:
        """One peer less holds each of these spans; each must have been added."""
        self._count_added()
        borrow, position = spans, 0
        while borrow:
            plane = self._planes[position]
            self._planes[position] = plane ^ borrow
            borrow &= ~plane
            position += 1

    def rarest(self, spans: int) -> int:
        """Those of `spans` that the fewest peers hold."""
        self._count_added()
        for plane in reversed(self._planes):
            rarer = spans & ~plane
            if rarer:
                spans = rarer
        return spans

    def held(self) -> int:
        """The spans that at least one peer holds."""
        found = self._added
        for plane in self._planes:
            found |= plane
        return found

    def shared(self) -> int:
        """The spans that at least two peers hold."""
        self._count_added()
        found = 0
        for plane in self._planes[1:]:
            found |= plane
        return found

    def count(self, span: int) -> int:
        """How many peers hold a span."""
        self._count_added()
        return sum((plane >> span & 1) << position for position, plane in enumerate(self._planes))


class Availability:
    """The holdings of all peers of a download, and the rarity they make."""

    def __init__(self, planner: SpanPlanner) -> None:
        self._planner = planner
        self._holdings: list[Holdings] = []
        self.rarity = Rarity()
        # Spans of which less is missing than when they were judged: more may hold their rest.
        self.shrunk: set[int] = set()

    def join(self) -> Holdings:
        """A new peer, of which nothing is known yet."""
        holdings = Holdings()
        self._holdings.append(holdings)
        return holdings

    def leave(self, holdings: Holdings) -> None:
        self._holdings.remove(holdings)
        self.rarity.remove(holdings.whole)

    def set_page(self, holdings: Holdings, number: int, entries: int) -> int:
        """A peer holds exactly these entries of a page; the spans it holds whole since."""
        page = self._planner.pages[number]
        entries &= (1 << page.entry_count) - 1
        if not page.missing:
            return 0
        spans = self._planner.spans_within(number, 0, page.entry_count)
        before, after = holdings.pages.get(number, 0) & page.missing, entries & page.missing
        holdings.pages[number] = entries
        if len(spans) > 2 and {before, after} <= {0, page.missing}:
            # All or nothing of the page, before and now: only the spans that cross its borders need
            # a look at the pages beside it.
            inner = bitsets.from_members(spans[1:-1]) if before or after else 0
            whole_before, whole = (inner if held else 0 for held in (before, after))
            if holdings.whole & inner == whole_before and not holdings.part & inner:
                holdings.whole ^= whole_before ^ whole
                self.rarity.add(whole & ~whole_before)
                self.rarity.remove(whole_before & ~whole)
                gained = whole & ~whole_before
                return gained | self._judge(holdings, (spans[0], spans[-1]))
        return self._judge(holdings, spans)

    def add_entries(self, holdings: Holdings, number: int, entries: Sequence[int]) -> int:
        """A peer holds more entries of a page; the spans it holds whole since.

        Called for each neighbour's every chunk. What is not missing here changes nothing.
        """
        page = self._planner.pages[number]
        if not page.missing:
            return 0
        if len(entries) == 1:
            news = 1 << entries[0] if 0 <= entries[0] < page.entry_count else 0
        else:
            news = bitsets.from_members(e for e in entries if 0 <= e < page.entry_count)
        pages = holdings.pages
        held = pages[number] = pages.get(number, 0) | news
        news &= page.missing
        if not news:
            return 0
        others: list[int] = []
        if news >> page.single_count:
            gained, others = self._pieces_gained(holdings, number, news, held)
        else:
            gained = news << page.first_span if page.first_span else news
        gained ^= gained & holdings.whole  # `& ~` would copy the larger set twice
        if gained:
            holdings.whole |= gained
            self.rarity.add(gained)
        return gained | self._judge(holdings, others) if others else gained

    def _pieces_gained(
        self, holdings: Holdings, number: int, news: int, held: int
    ) -> tuple[int, list[int]]:
        """The spans of which a peer holds all that is missing, among those of the entries `news`;
        and those that reach into other pages, to be judged.
        """
        gained, others = 0, []
        for entry in bitsets.iterate(news):
            index, missing = self._planner.piece_at(number, entry)
            if index is None:
                continue
            if missing is None:
                others.append(index)
            elif held & missing == missing:
                gained |= 1 << index
            else:
                holdings.part |= 1 << index
        holdings.part &= ~gained
        return gained, others

    def remove_entries(self, holdings: Holdings, index: int) -> None:
        """A peer holds no missing chunk of this span after all."""
        for number, missing in self._planner.pieces(index):
            if number in holdings.pages:
                holdings.pages[number] &= ~missing
        self._judge(holdings, [index])

    def remove_entry(self, holdings: Holdings, number: int, entry: int) -> None:
        """A peer does not hold one entry of a page after all."""
        holdings.pages[number] = holdings.pages.get(number, 0) & ~(1 << entry)
        self._judge(holdings, self._planner.spans_within(number, entry, entry + 1))

    def judge_spans(self, indexes: Iterable[int]) -> None:
        """Look again at spans that are new, or of which less is missing than before, for every
        peer.
        """
        indexes = list(indexes)
        self.shrunk.difference_update(indexes)
        for holdings in self._holdings:
            self._judge(holdings, indexes)

    def judge_shrunk(self, index: int) -> None:
        """Look again at a span if it is among the shrunk ones."""
        if index in self.shrunk:
            self.judge_spans([index])

    def forget_page(self, number: int) -> None:
        """A page is complete here: nobody's entries of it matter."""
        for holdings in self._holdings:
            holdings.pages.pop(number, None)

    def _judge(self, holdings: Holdings, indexes: Iterable[int]) -> int:
        """Decide anew which of these spans a peer holds, whole or in part; the ones newly held
        whole.
        """
        whole: list[int] = []
        part: list[int] = []
        none: list[int] = []
        pages = holdings.pages
        for index in indexes:
            is_whole, has_any = True, False
            for number, missing in self._planner.pieces(index):
                held = pages.get(number, 0) & missing
                is_whole = is_whole and held == missing
                has_any = has_any or held != 0
            (none if not has_any else whole if is_whole else part).append(index)
        gained, in_part = bitsets.from_members(whole), bitsets.from_members(part)
        lost = in_part | bitsets.from_members(none)
        holdings.part = (holdings.part | in_part) & ~(gained | lost & ~in_part)
        gained &= ~holdings.whole
        lost &= holdings.whole
        holdings.whole = (holdings.whole | gained) & ~lost
        self.rarity.add(gained)
        self.rarity.remove(lost)
        return gained
