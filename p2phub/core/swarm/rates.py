"""Rates, measured over `now`: exponentially weighted, unbiased from the first sample on."""

from __future__ import annotations

import math


class RateMeter:
    """Bytes per second over about the last `window_s` seconds."""

    __slots__ = ("_age_s", "_level", "_since", "_window_s")

    def __init__(self, now: float, window_s: float) -> None:
        self._window_s = window_s
        self._since = now
        self._age_s = 0.0  # how long it has measured, as far as the window remembers
        self._level = 0.0  # bytes, those long ago counting less

    def add(self, size_bytes: int, now: float) -> None:
        self._pass(now)
        self._level += size_bytes

    def skip(self, now: float) -> None:
        """The time until `now` doesn't count: nothing could have come."""
        self._since = max(now, self._since)

    def rate(self, now: float) -> float:
        """Bytes per second; 0.0 as long as no time has passed."""
        if not self._level:
            return 0.0
        if now > self._since:
            self._pass(now)
        weight = self._window_s * -math.expm1(-self._age_s / self._window_s)
        return self._level / weight if weight > 0 else 0.0

    def _pass(self, now: float) -> None:
        elapsed_s = now - self._since
        if elapsed_s > 0:
            if self._level:
                self._level *= math.exp(-elapsed_s / self._window_s)
            age_s, age_max_s = self._age_s + elapsed_s, 40 * self._window_s
            self._age_s = age_s if age_s < age_max_s else age_max_s
            self._since = now
