"""What channels report, and the bounded queue that carries it from their threads into the event
loop.

However many lanes report, the event loop wakes at most LANE_WAKEUPS_PER_S_MAX times a second,
each time for all that has come; and at once when a reader has all that it asked for, which is once
for each time it asks. When the loop falls behind, lanes wait; the loop never does.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import trio

from p2phub.errors import P2phubError
from p2phub.proto.limits import LANE_EVENTS_MAX, LANE_TICK_S, LANE_WAKEUPS_PER_S_MAX

WAKEUP_PERIOD_S = 1.0 / LANE_WAKEUPS_PER_S_MAX
STEADY_PERIOD_S = 2 * WAKEUP_PERIOD_S  # once lanes were busy for BUSY_S: each wake-up costs them
BUSY_S = 0.25  # a reader of a range has what it wants by then
REST_S = 0.05  # without a report: then lanes are not busy any more


class Channel(Protocol):
    """Where an event comes from: a lane, or a span stream."""

    @property
    def peer(self) -> object:
        """Whatever the node gave the channel to know it by."""

    @property
    def is_closing(self) -> bool:
        """Whether nobody waits for this channel's progress any more."""

    def close(self) -> None:
        """End now; ChannelClosed tells when it is done."""


@dataclass(frozen=True, slots=True)
class ReceivedChunks:
    """Chunks [first, stop) of a span arrived, were verified and written."""

    channel: Channel
    request_id: int
    first: int
    stop: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SpanDone:
    """All chunks of an expected span arrived."""

    channel: Channel
    request_id: int


@dataclass(frozen=True, slots=True)
class SpanStopped:
    """The peer sends no more of a span, from `chunk` on."""

    channel: Channel
    request_id: int
    chunk: int


@dataclass(frozen=True, slots=True)
class SentChunks:
    """Chunks of a span were handed to the network."""

    channel: Channel
    request_id: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SpanSent:
    """All chunks of a span were handed to the network."""

    channel: Channel
    request_id: int


@dataclass(frozen=True, slots=True)
class SpanUnserved:
    """A span was broken off before `chunk`, and the peer was told so."""

    channel: Channel
    request_id: int
    chunk: int
    error: P2phubError | None  # of our store; None: it was cancelled


@dataclass(frozen=True, slots=True)
class ChannelFailed:
    """A channel ends before its work was done. ChannelClosed follows.

    A PeerError or a ContentError is the peer's fault, a StoreError ours, a NetworkError nobody's.
    """

    channel: Channel
    request_id: int | None  # the span that it happened in; None: between spans
    error: P2phubError


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The last word of every channel, said once: its descriptor is closed."""

    channel: Channel


ChannelEvent: TypeAlias = (
    ReceivedChunks | SpanDone | SpanStopped | SentChunks | SpanSent | SpanUnserved | ChannelFailed
    | ChannelClosed
)  # fmt: skip


class ChannelEvents:
    """A queue that threads put into and one trio task receives from. Made inside trio."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._wakeup = trio.Event()
        self._hurry = trio.Event()  # no rest now
        self._room = trio.Event()  # replaced by whoever finds the queue full
        self._changed = threading.Condition()
        self._events: deque[ChannelEvent] = deque()
        self._is_awake = False  # a wake-up is under way, or the receiver is between two looks
        self._slept_until_s = 0.0
        self._busy_since_s = 0.0

    def put(self, event: ChannelEvent, *, is_waited_for: bool = False) -> None:
        """Report from a thread. Waits while the queue is full, unless the channel is closing.

        is_waited_for: a reader can do nothing before it hears of this.
        ChannelClosed is never held up nor lost: there is one per channel, and channels are bounded.
        """
        with self._changed:
            while len(self._events) >= LANE_EVENTS_MAX and not isinstance(event, ChannelClosed):
                if event.channel.is_closing:
                    return
                self._changed.wait(LANE_TICK_S)
            self._events.append(event)
            if self._is_awake and not is_waited_for:
                return
            self._is_awake = True
        try:
            self._token.run_sync_soon(self._hurry_up if is_waited_for else self._wake)
        except trio.RunFinishedError:
            pass  # Nobody is left to be told.

    async def put_from_trio(self, event: ChannelEvent, *, is_waited_for: bool = False) -> None:
        """As `put`, from a trio task. Waits without holding up the loop."""
        while not isinstance(event, ChannelClosed) and len(self._events) >= LANE_EVENTS_MAX:
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()
        self._events.append(event)
        self._is_awake = True
        (self._hurry_up if is_waited_for else self._wake)()

    async def receive(self) -> list[ChannelEvent]:
        """All that was reported since the last call, in order; waits for at least one report."""
        with trio.move_on_at(self._slept_until_s):
            await self._hurry.wait()
        while True:
            with self._changed:
                events = list(self._events)
                self._events.clear()
                self._is_awake = bool(events)
                if not events:
                    self._wakeup = trio.Event()
                self._changed.notify_all()
            if events:
                self._room.set()
                self._hurry = trio.Event()
                self._slept_until_s = self._rest(trio.current_time())
                return events
            await self._wakeup.wait()

    def _rest(self, now: float) -> float:
        """Until when the loop sleeps whatever is reported."""
        if now - self._slept_until_s > REST_S:
            self._busy_since_s = now
        is_steady = now - self._busy_since_s > BUSY_S
        return now + (STEADY_PERIOD_S if is_steady else WAKEUP_PERIOD_S)

    def _wake(self) -> None:
        self._wakeup.set()

    def _hurry_up(self) -> None:
        self._hurry.set()
        self._wakeup.set()
