"""Virtual time: a heap of what happens when.

Two things at the same time happen in the order in which they were planned.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from p2phub.digest import Sha256

EVENTS_MAX = 200_000_000  # a simulation that needs more is stuck


class Engine:
    """The clock of one simulation, and its trace."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events_count = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = count()
        self._trace = Sha256()

    def at(self, time: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Let `happen(*arguments)` be called at `time`, or now if that is past."""
        heapq.heappush(self._heap, (max(time, self.now), next(self._sequence), happen, arguments))

    def after(self, delay_s: float, happen: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + delay_s, happen, *arguments)

    def record(self, *facts: object) -> None:
        """Add something that happened to the trace."""
        self._trace.update(repr((self.now, *facts)).encode())

    @property
    def trace(self) -> str:
        """A digest of all that was recorded: equal traces, equal runs."""
        return self._trace.digest().hex()

    def run(self, until_s: float, is_over: Callable[[], bool]) -> None:
        """Let time pass until `is_over`, `until_s`, or nothing is left to happen."""
        while self._heap and not is_over():
            time, _, happen, arguments = self._heap[0]
            if time > until_s:
                return
            heapq.heappop(self._heap)
            self.now = time
            self.events_count += 1
            assert self.events_count < EVENTS_MAX, "the simulation is stuck"
            happen(*arguments)
