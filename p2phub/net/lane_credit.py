"""Rate credit of one channel: bytes that it may move, granted by the node and drawn by the channel.

Unlimited until told otherwise, and then it costs one comparison per step. Who gets how much is
not decided here: the node reads `wanted_bytes`, asks the limiter, and calls `refill`.
"""

from __future__ import annotations

import threading

from p2phub.proto.limits import LANE_CREDIT_BYTES

_ENDLESS = 1 << 62  # bytes: what a draw finds that began before the limit was lifted


class RateCredit:
    """A counter that one end refills and the other draws from. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._credit_bytes = _ENDLESS
        self.is_limited = False
        self.wanted_bytes = 0  # what the channel waits for now; 0: nothing, or no limit holds it
        self.is_first = False  # a reader waits for what comes: it is granted before others
        self.held_s = 0.0  # for how long it waited in all, as whoever refills it saw

    def limit(self) -> None:
        """From now on, move only what was granted."""
        with self._changed:
            if not self.is_limited:
                self.is_limited = True
                self._credit_bytes = 0

    def unlimit(self) -> None:
        """Move as fast as the link does."""
        with self._changed:
            self.is_limited = False
            self._credit_bytes = _ENDLESS
            self.wanted_bytes = 0
            self._changed.notify_all()

    def refill(self, size_bytes: int) -> None:
        """Grant `size_bytes` more."""
        assert size_bytes >= 0
        with self._changed:
            self._credit_bytes += size_bytes
            self.wanted_bytes = max(0, self.wanted_bytes - size_bytes)
            self._changed.notify_all()

    def drain(self) -> int:
        """Take back what was granted and not drawn: for a channel that closed."""
        with self._changed:
            self.wanted_bytes = 0
            if not self.is_limited:
                return 0
            left, self._credit_bytes = self._credit_bytes, 0
            return left

    def draw(self, wanted_bytes: int, timeout_s: float = 0.0) -> int:
        """Between 1 and `wanted_bytes` bytes of credit, at most LANE_CREDIT_BYTES under a limit.

        0 when none came within `timeout_s`. Blocks, so only a thread gives a timeout.
        """
        assert wanted_bytes > 0
        if not self.is_limited:
            return wanted_bytes
        wanted_bytes = min(wanted_bytes, LANE_CREDIT_BYTES)
        with self._changed:
            if not self._is_open():
                self.wanted_bytes = wanted_bytes
                if not self._changed.wait_for(self._is_open, timeout_s):
                    return 0
            granted = min(wanted_bytes, self._credit_bytes)
            self._credit_bytes -= granted
            self.wanted_bytes = 0
            return granted

    def _is_open(self) -> bool:
        return self._credit_bytes > 0
