"""Reports come in order, all of them, and wake the event loop at most 200 times a second."""

from __future__ import annotations

import threading
from functools import partial

import trio
from trio.testing import MockClock

from p2phub.net.lane_events import ChannelClosed, ChannelEvents, SpanDone, SpanSent
from p2phub.proto.limits import LANE_EVENTS_MAX, LANE_WAKEUPS_PER_S_MAX
from tests.net.lane_pair import SOON_S


class Source:
    """Something that reports: all that the queue asks of a lane."""

    def __init__(self) -> None:
        self.peer = "peer"
        self.is_closing = False


async def test_reports_of_threads_come_in_order_at_a_bounded_pace() -> None:
    events, source, count = ChannelEvents(), Source(), 5000
    wakeups = 0
    seen: list[int] = []

    def report() -> None:
        for id in range(count):
            events.put(SpanDone(source, id))

    began_s = trio.current_time()
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, report)
            while len(seen) < count:
                for event in await events.receive():
                    assert isinstance(event, SpanDone)
                    seen.append(event.request_id)
                wakeups += 1
    assert seen == list(range(count))
    assert wakeups <= (trio.current_time() - began_s) * LANE_WAKEUPS_PER_S_MAX + 1


async def test_the_first_report_after_a_pause_comes_at_once() -> None:
    events, source = ChannelEvents(), Source()
    with trio.fail_after(SOON_S):
        for id in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, events.put, SpanDone(source, id))
                assert await events.receive() == [SpanDone(source, id)]


async def test_what_a_reader_waits_for_comes_at_once(autojump_clock: MockClock) -> None:
    events, source = ChannelEvents(), Source()
    for id in range(3):
        events.put(SpanDone(source, id), is_waited_for=True)
        assert await events.receive() == [SpanDone(source, id)]
        await events.put_from_trio(SpanSent(source, id), is_waited_for=True)
        assert await events.receive() == [SpanSent(source, id)]
    assert trio.current_time() == 0.0
    await events.put_from_trio(SpanSent(source, 3))
    await events.receive()
    assert trio.current_time() >= 1 / LANE_WAKEUPS_PER_S_MAX


async def test_a_cancelled_wait_loses_nothing() -> None:
    events, source = ChannelEvents(), Source()
    with trio.move_on_after(0.02):
        await events.receive()
    await trio.to_thread.run_sync(events.put, SpanDone(source, 1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await events.receive()
    with trio.fail_after(SOON_S):
        assert await events.receive() == [SpanDone(source, 1)]


async def test_a_full_queue_holds_up_the_lane_and_not_the_loop() -> None:
    events, source = ChannelEvents(), Source()
    for id in range(LANE_EVENTS_MAX):
        events.put(SpanDone(source, id))
    thread = threading.Thread(target=events.put, args=(SpanSent(source, 1),))
    thread.start()
    events.put(ChannelClosed(source))  # Never held up.
    with trio.fail_after(SOON_S):
        first = await events.receive()
        await trio.to_thread.run_sync(thread.join)
        assert len(first) == LANE_EVENTS_MAX + 1
        assert await events.receive() == [SpanSent(source, 1)]


async def test_a_closing_lane_does_not_wait_for_room() -> None:
    events, source = ChannelEvents(), Source()
    for id in range(LANE_EVENTS_MAX):
        events.put(SpanDone(source, id))
    source.is_closing = True
    with trio.fail_after(SOON_S):
        await trio.to_thread.run_sync(events.put, SpanSent(source, 1))
        assert len(await events.receive()) == LANE_EVENTS_MAX


async def test_tasks_wait_for_room_as_well() -> None:
    events, source = ChannelEvents(), Source()
    for id in range(LANE_EVENTS_MAX):
        await events.put_from_trio(SpanDone(source, id))
    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            for id in range(3):
                nursery.start_soon(events.put_from_trio, SpanSent(source, id))
            await trio.testing.wait_all_tasks_blocked()
            assert len(await events.receive()) == LANE_EVENTS_MAX
            rest = await events.receive()
            while len(rest) < 3:
                rest += await events.receive()
    assert {event.request_id for event in rest} == {0, 1, 2}  # type: ignore[union-attr]


def test_reports_after_the_loop_has_ended_harm_nobody() -> None:
    async def make() -> ChannelEvents:
        return ChannelEvents()

    events = trio.run(make)
    thread = threading.Thread(target=partial(events.put, SpanDone(Source(), 1)))
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
