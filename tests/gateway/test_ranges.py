"""The Range header, for every header and every size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.gateway.ranges import Unsatisfiable, parse_range

SIZES = st.integers(0, 1 << 50)


@given(st.text(max_size=60), SIZES)
def test_no_header_gives_more_than_the_file(header: str, size: int) -> None:
    try:
        found = parse_range(header, size)
    except Unsatisfiable:
        return
    assert found is None or 0 <= found[0] < found[1] <= size


@given(SIZES, st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_two_ends_are_counted_both_and_cut_to_the_file(size: int, first: int, last: int) -> None:
    header = f"bytes={first}-{last}"
    if last < first:
        assert parse_range(header, size) is None
    elif first >= size:
        with pytest.raises(Unsatisfiable):
            parse_range(header, size)
    else:
        assert parse_range(header, size) == (first, min(last + 1, size))


@given(SIZES, st.integers(0, 1 << 50))
def test_a_suffix_is_the_end_of_the_file(size: int, length: int) -> None:
    if min(size, length) == 0:
        with pytest.raises(Unsatisfiable):
            parse_range(f"bytes=-{length}", size)
    else:
        assert parse_range(f"bytes=-{length}", size) == (max(size - length, 0), size)


NONSENSE = (None, "", "bytes", "bytes=", "bytes=-", "bytes=1", "items=0-1", "bytes=0-1,3-4")


@pytest.mark.parametrize("header", NONSENSE)
def test_anything_else_is_the_whole_file(header: str | None) -> None:
    assert parse_range(header, 10) is None
