"""Answers the questions of one stream, one after another, until its end or a long silence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from p2phub.net.base import Stream
from p2phub.proto.frames import FrameReader

IDLE_TIMEOUT_S = 60.0  # a stream on which nothing is asked for this long is closed


async def answer_each(stream: Stream, answer: Callable[[bytes], Awaitable[None]]) -> None:
    """Hand each frame of `stream` to `answer`, which sends the reply.

    The next frame waits meanwhile, so that one stream has one answer under way. Raises
    ProtocolViolation for what is no frame, and what `answer` raises.
    """
    frames = FrameReader()
    while True:
        with trio.move_on_after(IDLE_TIMEOUT_S) as idle:
            data = await stream.receive()
        if idle.cancelled_caught or not data:
            return
        for frame in frames.feed(data):
            await answer(frame)
