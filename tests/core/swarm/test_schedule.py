"""Limits by the time of day: what is read is what was meant, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.swarm.schedule import (
    DAY_MINUTES,
    Window,
    parse_rate,
    parse_schedule,
    rate_text,
    schedule_text,
    window_at,
)

NIGHT = "22:00-07:00 down=off up=50M, 12:00-13:30 up=1M"


def at(hour: int, minute: int = 0) -> int:
    return 60 * hour + minute


def test_a_window_across_midnight_holds_on_both_sides_of_it() -> None:
    windows = parse_schedule(NIGHT)
    night, noon = windows
    for minute in (at(22), at(23, 59), 0, at(6, 59)):
        assert window_at(windows, minute) is night
    for minute in (at(7), at(11, 59), at(13, 30), at(21, 59)):
        assert window_at(windows, minute) is None
    assert window_at(windows, at(12)) is noon
    assert night.limits == (("down", None), ("up", 50 << 20))


def test_the_first_of_two_windows_wins() -> None:
    windows = parse_schedule("08:00-20:00 up=1M, 10:00-12:00 up=2M")
    assert window_at(windows, at(11)) is windows[0]


def test_a_whole_day_is_a_window() -> None:
    for text in ("00:00-24:00 down=1M", "05:00-05:00 down=1M"):
        (window,) = parse_schedule(text)
        assert all(window.holds(minute) for minute in range(DAY_MINUTES))


@pytest.mark.parametrize("text", ["", " ", "off"])
def test_no_schedule_is_written_in_several_ways(text: str) -> None:
    assert parse_schedule(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "22:00-07:00", "down=1M", "22:00 down=1M", "25:00-07:00 up=1M", "22:60-07:00 up=1M",
        "24:00-07:00 up=1M", "07:00-24:01 up=1M", "22:00-07:00 up", "22:00-07:00 up=fast",
        "22:00-07:00 up=1M up=2M", "22:00-07:00 sideways=1M", "22:00-07:00 up=-1", ",",
        "22:00-07:00 up=1M,", "٢٢:00-07:00 up=1M", "22:00-07:00 up=1M" + " " * 2000,
        ",".join(["22:00-07:00 up=1M"] * 25),
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|names|is) "):
        parse_schedule(text)


@given(st.none() | st.integers(1, 10**18 - 1))
def test_a_rate_is_read_as_it_is_written(rate: int | None) -> None:
    assert parse_rate(rate_text(rate)) == rate


MINUTES = st.integers(0, DAY_MINUTES - 1)
LIMITS = st.dictionaries(
    st.sampled_from(["down", "up"]), st.none() | st.integers(1, 10**18 - 1), min_size=1
)


@given(st.lists(st.builds(Window, MINUTES, MINUTES, LIMITS.map(lambda d: tuple(d.items()))),
                max_size=10))  # fmt: skip
def test_a_schedule_is_read_as_it_is_written(windows: list[Window]) -> None:
    assert list(parse_schedule(schedule_text(windows))) == windows


@given(st.text(max_size=60))
def test_any_text_is_a_schedule_or_refused(text: str) -> None:
    try:
        windows = parse_schedule(text)
    except ValueError:
        return
    assert parse_schedule(schedule_text(windows)) == windows
