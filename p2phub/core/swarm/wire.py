"""Whose request is sent next: few peers at once, a request of each in turn. A machine over `now`.

What is sent to all at once is whole at all of them late, and nobody can pass it on until then. One
after another costs the wire nothing, and each has its span soon. So a request is started while
fewer than ABREAST peers are sent to, or less is started than the wire takes in AHEAD_S; of one peer
several, where nobody else waits. A peer that takes several times as long for a request as peers
use to keeps nobody waiting: others are sent to beside it. So whoever reads slowly on purpose costs
the others SLOW_S_MIN now and then.
Source: Mundinger, Weber and Weiss 2008: what is sent one after another is passed on soonest.
"""

from __future__ import annotations

from collections import deque
from statistics import median_low

from p2phub.core.swarm.actions import Peer
from p2phub.core.swarm.rates import RateMeter
from p2phub.proto.limits import MIB
from p2phub.proto.messages import Run

ABREAST = 2  # peers: one's request is on the wire while the other's is opened
AHEAD_S = 0.1  # event loops are late where processors are busy, and the wire shall not wait for one
STARTED_MIN = 2  # per peer: one is sent while the next is opened
STARTED_BYTES = 16 * MIB  # per peer: 15 ms at 1 GB/s, so that a lane never waits for this machine
SLOW_FACTOR = 4.0  # times what requests take, as long as that is within
SLOW_S_MIN, SLOW_S = 0.25, 1.0  # for a request: two rounds of busy loops, half a turn with a slot
PACES_MAX = 16  # of the last requests
RATE_WINDOW_S = 1.0


class Request:
    """A span that a peer requested."""

    __slots__ = ("id", "is_started", "runs", "size_bytes")

    def __init__(self, id: int, runs: tuple[Run, ...], size_bytes: int) -> None:
        self.id = id
        self.runs = runs
        self.size_bytes = size_bytes
        self.is_started = False


class Line:
    """The requests of one peer."""

    __slots__ = ("is_slow", "peer", "requests", "since", "started_bytes", "started_count")

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.requests: dict[int, Request] = {}  # by id, oldest first
        self.started_count = 0
        self.started_bytes = 0
        self.since = 0.0  # the last one ended, or the first was started
        self.is_slow = False  # it took too long, the last time or now


class Wire:
    """The lines of all peers, and which of their requests were started."""

    def __init__(self) -> None:
        self._waiting: dict[Line, None] = {}  # may have a request to start; in turn
        self._busy: dict[Line, None] = {}  # have one started
        self._started_bytes = 0
        self._ahead_bytes = 0.0  # what the wire takes in AHEAD_S
        self._rate = RateMeter(0.0, RATE_WINDOW_S)  # while something is requested
        self._paces: deque[float] = deque(maxlen=PACES_MAX)  # seconds per byte of requests
        self._pace = float("inf")  # their median

    def on_request(self, line: Line, request: Request, now: float) -> None:
        if not self._busy:
            self._rate.skip(now)  # nothing could be sent before
        line.requests[request.id] = request
        self._waiting[line] = None

    def on_closed(self, line: Line, request: Request, now: float) -> None:
        """A request was sent, stopped or forgotten."""
        del line.requests[request.id]
        if request.is_started:
            line.started_count -= 1
            line.started_bytes -= request.size_bytes
            self._started_bytes -= request.size_bytes
            line.is_slow = now >= self._late_at(line, request.size_bytes)
            self._paces.append((now - line.since) / request.size_bytes)
            self._pace = median_low(self._paces)
            line.since = now
            if not line.started_count:
                del self._busy[line]
        self._wait_if_more(line)

    def on_gone(self, line: Line) -> None:
        """A peer left, and its requests with it."""
        self._waiting.pop(line, None)
        self._busy.pop(line, None)
        self._started_bytes -= line.started_bytes

    def on_sent(self, size_bytes: int, now: float) -> None:
        self._rate.add(size_bytes, now)

    def next_starts(self, now: float) -> list[tuple[Peer, Request]]:
        """The requests to start now, in order."""
        for line in self._busy:
            line.is_slow |= now >= self._late_at(line)
        self._ahead_bytes = AHEAD_S * self._rate.rate(now)
        starts = []
        while self._waiting and self._has_room:
            line = next(iter(self._waiting))
            del self._waiting[line]
            request = self._next_of(line)
            if request is not None:
                self._start(line, request, now)
                starts.append((line.peer, request))
                self._wait_if_more(line)  # behind the others
        return starts

    def next_deadline(self) -> float | None:
        """When to ask `next_starts` even if nothing happens; None: no need."""
        if not self._waiting:
            return None
        if self._has_room:
            return float("-inf")
        return min((self._late_at(line) for line in self._busy if not line.is_slow), default=None)

    def _late_at(self, line: Line, size_bytes: int | None = None) -> float:
        """When a line is slow, with the request that it has started."""
        size_bytes = size_bytes or line.started_bytes // line.started_count
        usual_s = self._pace * size_bytes
        return line.since + min(max(SLOW_FACTOR * usual_s, SLOW_S_MIN), SLOW_S)

    @property
    def _has_room(self) -> bool:
        if self._started_bytes < self._ahead_bytes:
            return True
        return sum(not line.is_slow for line in self._busy) < ABREAST

    def _wait_if_more(self, line: Line) -> None:
        if len(line.requests) > line.started_count:
            self._waiting[line] = None

    def _next_of(self, line: Line) -> Request | None:
        """The oldest request of a line that waits, if so many of it may be started at once."""
        enough_bytes = min(self._ahead_bytes, STARTED_BYTES)
        if line.started_count >= STARTED_MIN and line.started_bytes >= enough_bytes:
            return None
        return next((one for one in line.requests.values() if not one.is_started), None)

    def _start(self, line: Line, request: Request, now: float) -> None:
        if not line.started_count:
            line.since = now
            self._busy[line] = None
        request.is_started = True
        line.started_count += 1
        line.started_bytes += request.size_bytes
        self._started_bytes += request.size_bytes
