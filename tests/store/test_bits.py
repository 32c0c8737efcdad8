"""Have-bits against sets of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2phub.store import bits


@st.composite
def some(draw: st.DrawFn) -> tuple[int, set[int]]:
    count = draw(st.integers(1, 70))
    return count, draw(st.sets(st.integers(0, count - 1)))


@given(some())
def test_bits_are_the_numbers_they_were_made_of(case: tuple[int, set[int]]) -> None:
    count, numbers = case
    made = bits.of(numbers, count)
    assert len(made) == bits.size(count)
    assert {i for i in range(count) if bits.get(made, i)} == numbers
    assert bits.count(made) == len(numbers)
    assert list(bits.unset(made, count)) == sorted(set(range(count)) - numbers)


@given(some(), st.data())
def test_a_range_is_all_set_if_each_number_is(
    case: tuple[int, set[int]], data: st.DataObject
) -> None:
    count, numbers = case
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    assert bits.all_set(bits.of(numbers, count), start, stop) == (
        set(range(start, stop)) <= numbers
    )


@given(some(), st.data())
def test_setting_clearing_and_union(case: tuple[int, set[int]], data: st.DataObject) -> None:
    count, numbers = case
    index = data.draw(st.integers(0, count - 1))
    made = bits.of(numbers, count)
    bits.put(made, index)
    assert made == bits.of(numbers | {index}, count)
    bits.clear(made, index)
    assert made == bits.of(numbers - {index}, count)
    assert bits.union(made, bits.of({index}, count)) == bits.of(numbers | {index}, count)


def test_full_bits_leave_the_unused_ones_zero() -> None:
    for count in range(1, 40):
        assert bits.full(count) == bits.of(range(count), count)
