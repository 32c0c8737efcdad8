"""How many peers an uploader serves at once. A machine over `now`.

Few, so that a span is soon whole at its taker, who can then pass it on: so many as a span each
takes SPAN_S at the measured rate. Time in which nothing was requested is not measured: takers that
are slow to ask would make the rate look small, and then even fewer of them would be served.
Where the takers' downlinks are the bound, more of them carry more. Which it is shows by trying: now
and then some more are served for a while, and it stays so if the rate grew with them; or some
fewer, and it stays so if it did not fall.
Source: Mundinger, Weber and Weiss 2008: what is sent one after another is passed on soonest.
"""

from __future__ import annotations

SPAN_S = 0.35  # a few round trips: then these cost little beside it
SERVED_MIN = 4  # one is sent to while the others' requests are on their way
SERVED_UNKNOWN = 8  # until a rate was measured
PERIOD_S = 2.0  # over which a rate is measured
BUSY_S_MIN = 0.05  # of it, or it goes on
TRIAL_PAUSE_S = 16.0  # between two trials
TRIAL_GAIN = 1.5  # as many, or as few, in a trial
GROWTH_MIN = 0.5  # of the gain that must show in the rate
FACTOR_MAX = 32.0


class Parallel:
    """limit: never more at once than so many."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._since: float | None = None  # of this period; None: nothing was sent yet
        self._sent_bytes = 0  # in this period
        self._busy_s = 0.0  # of this period, up to `_busy_since`
        self._busy_since: float | None = None  # something is requested; None: nothing is
        self._rate: float | None = None  # of the period before
        self._request_bytes = 0.0  # mean size; 0.0: none came yet
        self._factor = 1.0  # as many as SPAN_S asks for
        self._trial_gain: float | None = None  # of the trial that runs
        self._trial_at = 0.0  # the next one; no earlier
        self._rate_before = 0.0  # the trial

    @property
    def count(self) -> int:
        """How many at once, now."""
        if self._rate is None:
            return min(SERVED_UNKNOWN, self.limit)
        count = self._rate * SPAN_S / max(self._request_bytes, 1.0)
        return min(int(max(count, SERVED_MIN) * self._factor), self.limit)

    def on_request(self, size_bytes: int) -> None:
        """Somebody wants a span of this size."""
        mean = self._request_bytes
        self._request_bytes = size_bytes if mean == 0.0 else mean + (size_bytes - mean) / 8

    def on_queue(self, requests_count: int, now: float) -> None:
        """So many requests are queued or under way."""
        if self._busy_since is not None:
            self._busy_s += now - self._busy_since
        self._busy_since = now if requests_count else None

    def on_sent(self, size_bytes: int, now: float) -> None:
        if self._since is None:
            self._since = now
        self._sent_bytes += size_bytes

    def adapt(self, now: float) -> None:
        """Call now and then while more want to be served than are."""
        if self._since is None or now < self._since + PERIOD_S:
            return
        self.on_queue(self._busy_since is not None, now)
        if self._busy_s < BUSY_S_MIN:
            return
        elapsed_s, rate_before = now - self._since, self._rate
        self._rate = rate = self._sent_bytes / self._busy_s
        self._since, self._sent_bytes, self._busy_s = now, 0, 0.0
        if self._trial_gain is not None:
            self._end_trial(rate, now)
        elif rate_before is None:
            self._trial_at = now + TRIAL_PAUSE_S
        elif now >= self._trial_at and elapsed_s < 2 * PERIOD_S:
            self._begin_trial(TRIAL_GAIN, rate)

    def _begin_trial(self, gain: float, rate: float) -> None:
        self._trial_gain, self._rate_before = gain, rate
        self._factor = min(self._factor * gain, FACTOR_MAX)

    def _end_trial(self, rate: float, now: float) -> None:
        gain = self._trial_gain
        assert gain is not None
        self._trial_gain = None
        self._trial_at = now + TRIAL_PAUSE_S
        is_kept = rate >= self._rate_before * (1.0 + GROWTH_MIN * (gain - 1.0))
        if not is_kept:
            self._factor /= gain
        if gain > 1.0 and is_kept:
            self._begin_trial(gain, rate)
        elif gain > 1.0 and self._factor > 1.0:
            self._begin_trial(1.0 / gain, rate)
