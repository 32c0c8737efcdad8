"""How old a publisher's last signed word is, and what may still be done with it.

    FRESH    now <= fresh_until             everything
    STALE    fresh_until < now < expires    everything, with a warning that tells the age
    EXPIRED  expires <= now                 only releases that are already known, by version
    HALTED   the publisher equivocated      only releases that are already known, by version

TUF alone refuses everything after `expires`. A publisher whose only machine is a laptop is often
away, so expiry stops following ("latest", new releases) and not the use of what was verified before
it.

Source: TUF specification 5.3 to 5.6 for the hard part.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final

from p2phub.errors import ClockSetBack

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
CLOCK_STEP_S_MAX = 300.0  # time servers correct a clock by seconds; more is a clock that was set


class Freshness(Enum):
    """The four states of the table above."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"
    HALTED = "halted"

    @property
    def may_follow(self) -> bool:
        """Whether "latest" and releases not seen before may be taken from it."""
        return self in (Freshness.FRESH, Freshness.STALE)


def freshness(
    now: datetime, *, fresh_until: datetime, expires: datetime, halted: bool = False
) -> Freshness:
    """The state at `now`; all times carry a zone."""
    if halted:
        return Freshness.HALTED
    if now >= expires:
        return Freshness.EXPIRED
    return Freshness.STALE if now > fresh_until else Freshness.FRESH


def trusted_time(now: datetime, last_seen: datetime | None) -> datetime:
    """The time to judge expiry by: `now`, but never before a time already seen.

    last_seen: the latest time at which something was verified; None means nothing was verified yet.
    Raises ClockSetBack if `now` lies further back than a time server's correction would put it.
    Source: TUF specification 7, on clocks that a thief of old keys sets back.
    """
    if last_seen is None or now >= last_seen:
        return now
    if last_seen - now > timedelta(seconds=CLOCK_STEP_S_MAX):
        raise ClockSetBack(
            f"the clock says {instant_text(now)}, but this node has already seen "
            f"{instant_text(last_seen)}: set the clock right, or run `p2phub trust reset` "
            "if it was wrong before",
            now=instant_text(now),
            last_seen=instant_text(last_seen),
        )
    return last_seen


def instant(now: datetime | float) -> datetime:
    """`now` as a time in UTC: a datetime with a zone, or seconds since 1970."""
    if isinstance(now, datetime):
        if now.tzinfo is None:
            raise ValueError("a time without a zone is ambiguous")
        return now.astimezone(UTC)
    return datetime.fromtimestamp(now, UTC)


def instant_text(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as TUF writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_instant(text: str) -> datetime:
    """A time as TUF writes it. Raises ValueError for every other form."""
    if not _INSTANT.fullmatch(text):
        raise ValueError(f"not a time of the form 2026-01-31T00:00:00Z: {text[:40]!a}")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")
