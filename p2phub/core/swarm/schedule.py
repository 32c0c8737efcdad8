"""Rate limits by the time of day, as text and as windows; pure.

`22:00-07:00 down=off up=off, 12:00-13:00 down=1M`: within a window the limits that it names hold
instead of the others. A window may lie across midnight; where several hold, the first one wins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from p2phub.config import parse_size

DAY_MINUTES = 24 * 60
WINDOWS_MAX = 24  # of one schedule
SCHEDULE_LENGTH_MAX = 1024  # characters
UNLIMITED = "off"

_TIMES = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of each day, and the limits that differ in it."""

    start: int  # minute of the day, included
    stop: int  # minute of the day, excluded; at or before `start`: the next day
    limits: tuple[tuple[str, int | None], ...]  # "down" or "up": bytes a second, None for no limit

    def holds(self, minute: int) -> bool:
        if self.start < self.stop:
            return self.start <= minute < self.stop
        return minute >= self.start or minute < self.stop

    def __str__(self) -> str:
        times = "-".join(f"{at // 60:02}:{at % 60:02}" for at in (self.start, self.stop))
        return " ".join([times, *(f"{name}={rate_text(rate)}" for name, rate in self.limits)])


def parse_rate(text: str) -> int | None:
    """Bytes a second, such as 500K or 50M; None for `off` and 0: no limit. Raises ValueError."""
    return None if text == UNLIMITED else parse_size(text) or None


def rate_text(rate_bytes_per_s: int | None) -> str:
    """A rate as `parse_rate` reads it, in the largest unit that keeps it exact."""
    if rate_bytes_per_s is None:
        return UNLIMITED
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if not rate_bytes_per_s % (1 << shift):
            return f"{rate_bytes_per_s >> shift}{unit}"
    return str(rate_bytes_per_s)


def parse_schedule(text: str) -> tuple[Window, ...]:
    """The windows of a schedule; `off` or nothing: none.

    Raises ValueError that says what is wrong.
    """
    if len(text) > SCHEDULE_LENGTH_MAX:
        raise ValueError(f"is longer than {SCHEDULE_LENGTH_MAX} characters")
    if text.strip() in ("", UNLIMITED):
        return ()
    windows = tuple(_parse_window(part.split()) for part in text.split(","))
    if len(windows) > WINDOWS_MAX:
        raise ValueError(f"has more than {WINDOWS_MAX} windows")
    return windows


def schedule_text(windows: Sequence[Window]) -> str:
    """A schedule as `parse_schedule` reads it."""
    return ", ".join(map(str, windows))


def window_at(windows: Sequence[Window], minute: int) -> Window | None:
    """The window that holds at a minute of the day; None: none does."""
    return next((window for window in windows if window.holds(minute)), None)


def _parse_window(words: Sequence[str]) -> Window:
    found = _TIMES.fullmatch(words[0]) if words else None
    if found is None:
        raise ValueError("has no times of the form 22:00-07:00")
    hours, minutes = [int(found[1]), int(found[3])], [int(found[2]), int(found[4])]
    if max(hours) > 24 or max(minutes) > 59:
        raise ValueError(f"has a time that no clock shows: {words[0]}")
    start, stop = (60 * h + m for h, m in zip(hours, minutes, strict=True))
    if start >= DAY_MINUTES or stop > DAY_MINUTES:
        raise ValueError(f"has a time that no clock shows: {words[0]}")
    limits: dict[str, int | None] = {}
    for word in words[1:]:
        name, equals, rate = word.partition("=")
        if name not in ("down", "up") or not equals or name in limits:
            raise ValueError(f"has {word[:40]!r} where down=RATE or up=RATE belongs")
        limits[name] = parse_rate(rate)
    if not limits:
        raise ValueError(f"names no limit for {words[0]}: write down=RATE or up=RATE")
    return Window(start, stop % DAY_MINUTES, tuple(limits.items()))
