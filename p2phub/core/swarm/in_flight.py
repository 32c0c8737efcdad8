"""The requests of a download that are in flight, by span, and those that were closed a moment ago.

What a closed request still brings counts: its chunks were under way, and they were verified.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import Peer
from p2phub.core.swarm.pipeline import RequestState
from p2phub.core.swarm.spans import SpanPlanner

LATE_REQUESTS_MAX = 256  # closed ones that are remembered: more than are cancelled at once


class InFlight:
    """Who is asked for which span."""

    def __init__(self) -> None:
        self.by_span: dict[int, list[RequestState]] = {}  # first asked first; no empty lists
        self._late: dict[tuple[Peer, int], RequestState] = {}  # oldest first

    def __bool__(self) -> bool:
        return bool(self.by_span)

    def of(self, span: int) -> list[RequestState]:
        """The requests for a span; the list is a copy."""
        return list(self.by_span.get(span, ()))

    def add(self, request: RequestState) -> None:
        self.by_span.setdefault(request.span, []).append(request)

    def remove(self, request: RequestState) -> bool:
        """A request is closed; whether nobody else is asked for its span."""
        if request.remaining_bytes:
            self._late[request.peer.peer, request.id] = request
            if len(self._late) > LATE_REQUESTS_MAX:
                del self._late[next(iter(self._late))]
        others = self.by_span[request.span]
        others.remove(request)
        if not others:
            del self.by_span[request.span]
        return not others

    def find_late(self, peer: Peer, request_id: int) -> RequestState | None:
        """A request that was closed before it was done; None: long ago, or never heard of."""
        return self._late.get((peer, request_id))


def entries_of(
    request: RequestState, first: int, last: int, planner: SpanPlanner
) -> Iterator[tuple[int, int]]:
    """Chunks [first, last) of a request as (page number, set of entries)."""
    base = 0
    for run in request.runs:
        start, stop = max(first - base, 0), min(last - base, len(run))
        if start < stop:
            number = planner.number_of(run.page)
            assert number is not None
            yield number, bitsets.interval(run.start + start, run.start + stop)
        base += len(run)
