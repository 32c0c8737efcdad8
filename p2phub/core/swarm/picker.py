"""Which span next, from a given peer: what a reader waits for, then what the peer offered, then the
rarest.

Among equally rare spans chance decides, so that peers who start together fetch different ones and
have something to give each other. What is picked is set aside (`take`) until it is complete or
handed back (`give_back`).
Source: Legout et al., IMC 2006: rarest first comes close to ideal diversity.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.availability import Availability, Holdings
from p2phub.core.swarm.spans import SpanPlanner


class Picker:
    """The spans that are missing and asked of nobody, in the order of who wants what."""

    def __init__(
        self, planner: SpanPlanner, availability: Availability, rng: random.Random
    ) -> None:
        self._planner = planner
        self._availability = availability
        self._rng = rng
        self.open = 0  # set of spans
        self.first = 0  # set of spans that a reader will want soon, in order of the line
        self.urgent: dict[int, float] = {}  # span -> when a reader needs it

    def give_back(self, span: int) -> None:
        """A span is missing and asked of nobody (again)."""
        self.open |= 1 << span

    def take(self, span: int) -> None:
        """A span was asked of somebody, or is complete."""
        self.open &= ~(1 << span)

    def want_first(self, spans: Sequence[int], deadline: float | None) -> None:
        """A reader waits for spans; with a deadline they come before all else."""
        for span in spans:
            if self._planner.is_span_complete(span):
                continue
            if deadline is None:
                self.first |= 1 << span
            else:
                self.urgent[span] = min(deadline, self.urgent.get(span, deadline))

    def settle(self, span: int) -> None:
        """A span is complete: nobody waits for it any more."""
        self.take(span)
        self.first &= ~(1 << span)
        self.urgent.pop(span, None)

    def pick(
        self,
        holdings: Holdings,
        offered: int = 0,
        *,
        is_offered_only: bool = False,
        in_order: bool = False,
    ) -> int | None:
        """The open span to ask of a peer next; None: it holds none whole.

        offered: set of spans that the peer asked us to take first. is_offered_only: take no other,
        unless a reader waits for it. in_order: nobody else is in sight whom another order would
        serve, so the disk and the hash of the whole file decide.
        """
        candidates = self.open & holdings.whole
        if not candidates:
            return None
        preferred = candidates & self.first
        if preferred:
            return bitsets.lowest(preferred)
        if candidates & offered:
            candidates &= offered
        elif is_offered_only:
            return None
        rarest = self._availability.rarity.rarest(candidates)
        if in_order:
            return bitsets.lowest(rarest)
        count = rarest.bit_count()
        return bitsets.nth(rarest, self._rng.randrange(count) if count > 1 else 0)

    def split_for(self, holdings: Holdings) -> list[int] | None:
        """Where nobody holds a span whole, but this peer a part: make that part a span of its own.

        Returns the spans that are new or changed, to be judged again; None: there is nothing to
        split.
        """
        candidates = self.open & holdings.part
        if not candidates:
            return None
        candidates &= ~self._availability.rarity.held()
        if not candidates:
            return None
        count = candidates.bit_count()
        index = bitsets.nth(candidates, self._rng.randrange(count) if count > 1 else 0)
        for number, missing in self._planner.pieces(index):
            held = holdings.pages.get(number, 0) & missing
            if not held:
                continue
            start = bitsets.lowest(held)
            absent = missing & ~held & ~bitsets.interval(0, start)
            stop = bitsets.lowest(absent) if absent else missing.bit_length()
            new = self._planner.split(index, number, start, stop)
            for span in new:
                self.give_back(span)
                if index in self.urgent:
                    self.urgent[span] = self.urgent[index]
                if self.first >> index & 1:
                    self.first |= 1 << span
            for span in (index, *new):
                if self._planner.is_span_complete(
                    span
                ):  # a cut may leave a part that was fetched already
                    self.settle(span)
            return [index, *new]
        raise AssertionError("a span held in part has an entry that is held")
