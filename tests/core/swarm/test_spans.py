"""Spans cover each missing chunk once, in order, within their bounds."""

from __future__ import annotations

import random
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.spans import (
    SPAN_BYTES_TARGET_MAX,
    SPAN_BYTES_TARGET_MIN,
    SpanPlanner,
    span_bytes_target,
)
from p2phub.proto.limits import CHUNK_BYTES_MAX, MIB, RUNS_PER_SPAN_MAX, SPAN_CHUNKS_MAX

PAGES = st.lists(
    st.lists(st.sampled_from([0, 1, 5000, 300_000, CHUNK_BYTES_MAX]), min_size=1, max_size=60),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(pages=PAGES, seed=st.integers(0, 1000))
def test_every_missing_chunk_is_in_exactly_one_span(pages: list[list[int]], seed: int) -> None:
    rng = random.Random(seed)
    planner = SpanPlanner(sum(map(sum, pages)))
    wanted, cut = [], []
    for number, lengths in enumerate(pages):
        held = rng.getrandbits(len(lengths)) & rng.getrandbits(len(lengths))
        wanted += [
            (bytes([number]) * 32, e)
            for e, size in enumerate(lengths)
            if size and not held >> e & 1
        ]
        cut += planner.add(bytes([number]) * 32, lengths, held)
    cut += planner.close_tail()
    assert cut == list(range(len(planner)))
    found = []
    for index in cut:
        span = planner.span(index)
        assert 0 < span.size_bytes <= max(SPAN_BYTES_TARGET_MIN, CHUNK_BYTES_MAX)
        assert len(span.runs) <= RUNS_PER_SPAN_MAX and span.chunk_count <= SPAN_CHUNKS_MAX
        found += [(run.page, entry) for run in span.runs for entry in range(run.start, run.stop)]
    assert found == wanted


@settings(max_examples=80, deadline=None)
@given(pages=PAGES, seed=st.integers(0, 1000))
def test_splitting_loses_nothing_and_spans_are_found_by_their_entries(
    pages: list[list[int]], seed: int
) -> None:
    rng = random.Random(seed)
    planner = SpanPlanner(1 << 40)
    for number, lengths in enumerate(pages):
        planner.add(bytes([number]) * 32, lengths, 0)
    planner.close_tail()
    before = [
        (n, e)
        for i in range(len(planner))
        for n, s in planner.pieces(i)
        for e in bitsets.iterate(s)
    ]
    for _ in range(6):
        if not len(planner):
            return
        index = rng.randrange(len(planner))
        pieces = planner.pieces(index)
        if pieces:  # else an earlier cut left it nothing
            number, entries = rng.choice(pieces)
            start = rng.choice(list(bitsets.iterate(entries)))
            planner.split(index, number, start, start + rng.randint(1, 3))
    after = sorted(
        (n, e)
        for i in range(len(planner))
        for n, s in planner.pieces(i)
        for e in bitsets.iterate(s)
    )
    assert after == sorted(before)
    for index in range(len(planner)):
        for number, entries in planner.pieces(index):
            for entry in bitsets.iterate(entries):
                assert list(planner.spans_within(number, entry, entry + 1)) == [index]


@settings(max_examples=80, deadline=None)
@given(
    pages=st.lists(
        st.lists(st.sampled_from([5000, 300_000, 300_000, 300_000]), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    data=st.data(),
)
def test_entries_said_to_be_spans_of_their_own_are(
    pages: list[list[int]], data: st.DataObject
) -> None:
    planner = SpanPlanner(1)
    for number, lengths in enumerate(pages):
        held = data.draw(st.sampled_from([0, 0, 1]))
        planner.add(bytes([number]) * 32, lengths, held)
    planner.close_tail()
    for number, page in enumerate(planner.pages):
        for entry in range(page.single_count):
            index = page.first_span + entry
            assert list(planner.pieces(index)) == [(number, 1 << entry)]


def test_of_chunks_as_large_as_spans_all_but_the_last_are_known_to_be_spans() -> None:
    planner = SpanPlanner(1 << 28, MIB)
    for number in range(2):
        planner.add(bytes([number]) * 32, [MIB] * 20, 0)
    planner.close_tail()
    found = [(page.first_span, page.single_count) for page in planner.pages]
    assert found == [(0, 19), (20, 19)]


def test_a_release_has_about_five_hundred_spans_within_bounds() -> None:
    assert span_bytes_target(1 << 30) == 2 * MIB
    assert span_bytes_target(1 << 40) == SPAN_BYTES_TARGET_MAX
    assert span_bytes_target(1) == SPAN_BYTES_TARGET_MIN


def test_a_span_crosses_files_and_keeps_the_bound_of_runs() -> None:
    planner = SpanPlanner(1 << 40)
    for number in range(600):
        planner.add(number.to_bytes(32, "big"), [10], 0)
    planner.close_tail()
    spans = [planner.span(index) for index in range(len(planner))]
    assert [len(span.runs) for span in spans] == [256, 256, 88]


def test_a_terabyte_costs_megabytes() -> None:
    planner = SpanPlanner(1 << 40)
    for number in range(128):
        planner.add(number.to_bytes(32, "big"), [MIB] * 8192, 0)
    assert len(planner) >= 250_000
    arrays = (
        planner._starts,
        planner._stops,
        planner._first_pages,
        planner._line,
        planner._line_spans,
    )
    assert sum(map(sys.getsizeof, arrays)) < 12 * MIB


def test_peers_that_start_alike_cut_alike() -> None:
    one, two = SpanPlanner(10 * MIB), SpanPlanner(10 * MIB)
    for planner in (one, two):
        planner.add(b"a" * 32, [100_000] * 50, 0)
        planner.close_tail()
    one.mark_held(0, 0b11111)
    assert list(one._starts) == list(two._starts)
