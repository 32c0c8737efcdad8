"""Freshness: four states from three times, and a clock that only goes forward."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.trust.freshness import (
    CLOCK_STEP_S_MAX,
    Freshness,
    freshness,
    instant,
    instant_text,
    trusted_time,
)
from p2phub.errors import ClockSetBack

NOW = datetime(2026, 8, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("days", "state"),
    [(0, Freshness.FRESH), (7, Freshness.FRESH), (8, Freshness.STALE), (89, Freshness.STALE),
     (90, Freshness.EXPIRED), (1000, Freshness.EXPIRED)],
)  # fmt: skip
def test_a_statement_ages(days: int, state: Freshness) -> None:
    fresh_until, expires = NOW + 7 * DAY, NOW + 90 * DAY
    assert freshness(NOW + days * DAY, fresh_until=fresh_until, expires=expires) is state
    halted = freshness(NOW, fresh_until=fresh_until, expires=expires, halted=True)
    assert halted is Freshness.HALTED


def test_only_fresh_and_stale_may_be_followed() -> None:
    assert [state for state in Freshness if state.may_follow] == [Freshness.FRESH, Freshness.STALE]


@given(TIMES, TIMES)
def test_trusted_time_never_precedes_what_was_seen(now: datetime, seen: datetime) -> None:
    try:
        trusted = trusted_time(now, seen)
    except ClockSetBack:
        assert (seen - now).total_seconds() > CLOCK_STEP_S_MAX
    else:
        assert trusted == max(now, seen)


def test_the_first_time_is_believed() -> None:
    assert trusted_time(NOW, None) == NOW


def test_times_are_datetimes_with_a_zone_or_seconds() -> None:
    assert instant(NOW.timestamp()) == instant(NOW) == NOW
    assert instant_text(NOW.astimezone(timezone(5 * DAY / 24))) == "2026-08-01T00:00:00Z"
    with pytest.raises(ValueError, match="zone"):
        instant(datetime(2026, 8, 1))
