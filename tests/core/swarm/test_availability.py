"""What is kept as news come equals what a slow look at everything says."""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.availability import Availability, Holdings
from p2phub.core.swarm.spans import SpanPlanner
from p2phub.proto.limits import MIB

PEERS = range(3)
LENGTHS = st.lists(st.sampled_from([0, 1, 60_000, 150_000, MIB]), min_size=2, max_size=8)
PAGES = st.lists(
    st.one_of(LENGTHS, st.lists(st.just(MIB), min_size=2, max_size=8)),
    min_size=1,
    max_size=3,
)
Event: TypeAlias = tuple[str, int, int, list[int]]
ENTRIES = st.one_of(
    st.lists(st.integers(-1, 8), min_size=1, max_size=1),
    st.lists(st.integers(-1, 8), max_size=4),
    st.just(list(range(8))),
)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["gains", "gains", "gains", "says", "lacks", "arrives", "splits"]),
        st.sampled_from(PEERS),
        st.integers(0, 2),  # a page, or a span
        ENTRIES,
    ),
    min_size=10,
    max_size=40,
)


class SlowAvailability:
    """The same with sets, every span counted chunk by chunk whenever it is judged."""

    def __init__(self, planner: SpanPlanner) -> None:
        self.planner = planner
        self.held: dict[int, set[tuple[int, int]]] = {peer: set() for peer in PEERS}
        self.whole: dict[int, set[int]] = {peer: set() for peer in PEERS}
        self.part: dict[int, set[int]] = {peer: set() for peer in PEERS}

    def missing(self, span: int) -> set[tuple[int, int]]:
        return {
            (number, entry)
            for number, entries in self.planner.pieces(span)
            for entry in bitsets.iterate(entries)
        }

    def judge(self, peer: int, spans: set[int]) -> set[int]:
        """The spans that became whole."""
        before = set(self.whole[peer])
        for span in spans:
            missing = self.missing(span)
            has = missing & self.held[peer]
            (self.whole[peer].add if has and has == missing else self.whole[peer].discard)(span)
            (self.part[peer].add if has and has != missing else self.part[peer].discard)(span)
        return self.whole[peer] - before

    def spans_of(self, number: int, entries: set[int]) -> set[int]:
        found: set[int] = set()
        for entry in entries:
            found.update(self.planner.spans_within(number, entry, entry + 1))
        return found


@settings(max_examples=300, deadline=None)
@given(pages=PAGES, events=EVENTS)
def test_news_are_counted_as_a_slow_look_at_every_chunk_counts_them(
    pages: list[list[int]], events: list[Event]
) -> None:
    planner = SpanPlanner(1)  # spans of 256 KiB, so that some cross pages and some hold many chunks
    for number, lengths in enumerate(pages):
        planner.add(bytes([number]) * 32, lengths, 0)
    planner.close_tail()
    availability, slow = Availability(planner), SlowAvailability(planner)
    holdings = {peer: availability.join() for peer in PEERS}
    for event in events:
        happen(event, planner, availability, slow, holdings)
        incomplete = [span for span in range(len(planner)) if not planner.is_span_complete(span)]
        for span in incomplete:
            for peer in PEERS:
                assert holdings[peer].whole >> span & 1 == (span in slow.whole[peer])
                assert holdings[peer].part >> span & 1 == (span in slow.part[peer])
            holders = sum(span in slow.whole[peer] for peer in PEERS)
            assert availability.rarity.count(span) == holders


def happen(
    event: Event,
    planner: SpanPlanner,
    availability: Availability,
    slow: SlowAvailability,
    holdings: dict[int, Holdings],
) -> None:
    kind, peer, number, entries = event
    if number >= len(planner.pages):
        return
    count = planner.pages[number].entry_count
    valid = {entry for entry in entries if 0 <= entry < count}
    is_missing = bool(planner.pages[number].missing)
    match kind:
        case "gains":
            gained = availability.add_entries(holdings[peer], number, entries)
            if is_missing:
                slow.held[peer] |= {(number, entry) for entry in valid}
                lacking = set(bitsets.iterate(planner.pages[number].missing))
                fresh = slow.judge(peer, slow.spans_of(number, valid & lacking))
                assert gained == bitsets.from_members(fresh)
        case "says":
            availability.set_page(holdings[peer], number, bitsets.from_members(valid))
            if is_missing:
                kept = {chunk for chunk in slow.held[peer] if chunk[0] != number}
                slow.held[peer] = kept | {(number, entry) for entry in valid}
                slow.judge(peer, slow.spans_of(number, set(range(count))))
        case "lacks" if valid:
            entry = min(valid)
            availability.remove_entry(holdings[peer], number, entry)
            slow.held[peer].discard((number, entry))
            slow.judge(peer, slow.spans_of(number, {entry}))
        case "arrives":  # judged anew by chance only, as spans in flight are
            planner.mark_held(number, bitsets.from_members(valid))
            if len(valid) % 2:
                spans = slow.spans_of(number, valid)
                availability.judge_spans(sorted(spans))
                for other in PEERS:
                    slow.judge(other, spans)
            if not planner.pages[number].missing:
                availability.forget_page(number)
                for held in slow.held.values():
                    held -= {chunk for chunk in held if chunk[0] == number}
        case "splits" if valid:
            index, _ = planner.piece_at(number, min(valid))
            if index is not None:
                spans = {index, *planner.split(index, number, min(valid), min(valid) + 2)}
                availability.judge_spans(sorted(spans))
                for other in PEERS:
                    slow.judge(other, spans)


@settings(max_examples=150, deadline=None)
@given(pages=PAGES, held=st.integers(0, 4095))
def test_a_piece_is_what_is_missing_of_the_span_around_an_entry(
    pages: list[list[int]], held: int
) -> None:
    planner = SpanPlanner(1)
    for number, lengths in enumerate(pages):
        planner.add(bytes([number]) * 32, lengths, 0)
    planner.close_tail()
    planner.mark_held(0, held)
    for number, page in enumerate(planner.pages):
        for entry in range(page.entry_count):
            index, missing = planner.piece_at(number, entry)
            assert ([] if index is None else [index]) == list(
                planner.spans_within(number, entry, entry + 1)
            )
            if index is not None and missing is not None:
                assert planner.pieces(index) == ([(number, missing)] if missing else [])
