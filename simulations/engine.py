"""Virtual time: what happens when.

Two things at the same time happen in the order in which they were planned.
"""

from __future__ import annotations

import heapq
import marshal
from bisect import insort_left
from collections.abc import Callable
from typing import Any, TypeAlias

from p2phub.digest import Sha256

SLOT_S = 0.001
FACTS_MAX = 1024  # that are added to the trace at once, which costs less
MARSHAL_VERSION = 2  # the last in which equal facts are equal bytes, whoever else refers to them
EVENTS_MAX = 200_000_000  # a simulation that needs more is stuck

_Event: TypeAlias = tuple[float, Callable[..., None], tuple[Any, ...]]


def _later_first(event: _Event) -> float:
    return -event[0]


class Engine:
    """The clock of one simulation, and its trace.

    What happens in the same SLOT_S waits in a list, which is sorted when it is at hand. So an event
    costs the same whether a thousand others wait or a million.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.events_count = 0
        self._slots: dict[int, list[_Event]] = {}  # by number; the one at hand is not among them
        self._numbers: list[int] = []  # of these, a heap
        self._at_hand: list[_Event] = []  # what comes next is at the end
        self._slot = 0  # at hand
        self._trace = Sha256()
        self._facts: list[tuple[float, tuple[str | int | None, ...]]] = []  # not in the trace yet
        self._is_stopped = False

    def at(self, time: float, happen: Callable[..., None], *arguments: Any) -> None:
        """Let `happen(*arguments)` be called at `time`, or now if that is past."""
        if time < self.now:
            time = self.now
        slot = int(time / SLOT_S)
        if slot <= self._slot:
            # Before those at the same time, and so after them in time.
            insort_left(self._at_hand, (time, happen, arguments), key=_later_first)
        elif slot in self._slots:
            self._slots[slot].append((time, happen, arguments))
        else:
            self._slots[slot] = [(time, happen, arguments)]
            heapq.heappush(self._numbers, slot)

    def after(self, delay_s: float, happen: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now + delay_s, happen, *arguments)

    def record(self, *facts: str | int | None) -> None:
        """Add something that happened to the trace."""
        self._facts.append((self.now, facts))
        if len(self._facts) >= FACTS_MAX:
            self._write_facts()

    def _write_facts(self) -> None:
        self._trace.update(marshal.dumps(self._facts, MARSHAL_VERSION))
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
        at_hand = self._at_hand
        while not self._is_stopped:
            if not at_hand:
                if not self._numbers:
                    return
                self._slot = heapq.heappop(self._numbers)
                at_hand.extend(reversed(self._slots.pop(self._slot)))
                at_hand.sort(key=_later_first)  # and those at the same time stay as they are
            if at_hand[-1][0] > until_s:
                return
            self.events_count += 1
            assert self.events_count < EVENTS_MAX, "the simulation is stuck"
            self.now, happen, arguments = at_hand.pop()
            happen(*arguments)
