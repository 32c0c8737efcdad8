"""Virtual time: what happens when.

Two things at the same time happen in the order in which they were planned.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any, TypeAlias

from p2phub.digest import Sha256

SLOT_S = 0.001
FACTS_MAX = 1024  # that are added to the trace at once, which costs less
EVENTS_MAX = 200_000_000  # a simulation that needs more is stuck

_Event: TypeAlias = tuple[float, int, Callable[..., None], tuple[Any, ...]]


class Engine:
    """The clock of one simulation, and its trace.

    What happens in the same SLOT_S waits in a list; only the slot that is at hand is a heap. So an
    event costs the same whether a thousand others wait or a million.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events_count = 0
        self._slots: dict[int, list[_Event]] = {}  # by number; the one at hand is not among them
        self._numbers: list[int] = []  # of these, a heap
        self._at_hand: list[_Event] = []  # a heap
        self._slot = 0  # at hand
        self._sequence = count()
        self._trace = Sha256()
        self._facts: list[tuple[float, tuple[object, ...]]] = []  # not in the trace yet
        self._is_stopped = False

    def at(self, time: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Let `happen(*arguments)` be called at `time`, or now if that is past."""
        if time < self.now:
            time = self.now
        event = (time, next(self._sequence), happen, arguments)
        slot = int(time / SLOT_S)
        if slot <= self._slot:
            heapq.heappush(self._at_hand, event)
        elif slot in self._slots:
            self._slots[slot].append(event)
        else:
            self._slots[slot] = [event]
            heapq.heappush(self._numbers, slot)

    def after(self, delay_s: float, happen: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + delay_s, happen, *arguments)

    def record(self, *facts: object) -> None:
        """Add something that happened to the trace."""
        self._facts.append((self.now, facts))
        if len(self._facts) >= FACTS_MAX:
            self._write_facts()

    def _write_facts(self) -> None:
        self._trace.update("".join(map(repr, self._facts)).encode())
        self._facts.clear()

    @property
    def trace(self) -> str:
        """A digest of all that was recorded: equal traces, equal runs."""
        self._write_facts()
        return self._trace.digest().hex()

    def stop(self) -> None:
        """Let nothing more happen in this run."""
        self._is_stopped = True

    def run(self, until_s: float) -> None:
        """Let time pass until `stop`, `until_s`, or nothing is left to happen."""
        self._is_stopped = False
        heap, pop = self._at_hand, heapq.heappop
        while not self._is_stopped:
            if not heap:
                if not self._numbers:
                    return
                self._slot = pop(self._numbers)
                heap.extend(self._slots.pop(self._slot))
                heapq.heapify(heap)
            if heap[0][0] > until_s:
                return
            self.events_count += 1
            assert self.events_count < EVENTS_MAX, "the simulation is stuck"
            self.now, _, happen, arguments = pop(heap)
            happen(*arguments)
