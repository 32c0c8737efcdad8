"""Rate limits, carried out over virtual time."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from p2phub.net.base import PeerId
from p2phub.net.lane_credit import RateCredit
from p2phub.node.rates import Rates

PEER, OTHER = PeerId("a" * 46), PeerId("b" * 46)
RATE = 1_000_000


async def draw_all_the_time(credit: RateCredit, drawn: list[int]) -> None:
    while True:
        drawn[0] += credit.draw(65_536)
        await trio.sleep(0.005)


async def test_a_limit_holds_over_two_seconds_whoever_draws(autojump_clock: MockClock) -> None:
    rates = Rates(RATE)
    drawn = [[0], [0]]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rates.run)
        for number, peer in enumerate((PEER, OTHER)):
            credit = RateCredit()
            rates.add(credit, peer)
            nursery.start_soon(draw_all_the_time, credit, drawn[number])
        await trio.sleep(2.0)
        total = drawn[0][0] + drawn[1][0]
        assert 0.95 * 2 * RATE <= total <= 1.05 * 2 * RATE
        assert abs(drawn[0][0] - drawn[1][0]) < 0.1 * total
        nursery.cancel_scope.cancel()


async def test_a_limit_that_is_lifted_frees_open_channels(autojump_clock: MockClock) -> None:
    rates = Rates(RATE)
    credit = RateCredit()
    rates.add(credit, PEER)
    assert credit.is_limited
    with rates.limits_changed() as limiter:
        limiter.set_rate(None, trio.current_time())
    assert credit.draw(1 << 20) == 1 << 20
    with rates.limits_changed() as limiter:
        limiter.set_rate(RATE, trio.current_time())
    assert credit.draw(1 << 20) == 0


async def test_what_a_closed_channel_did_not_use_goes_to_the_others(
    autojump_clock: MockClock,
) -> None:
    rates = Rates(RATE)
    closing, staying = RateCredit(), RateCredit()
    rates.add(closing, PEER)
    rates.add(staying, OTHER)
    closing.draw(50_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rates.run)
        await trio.sleep(0.2)
        assert closing.draw(1) == 1
        rates.remove(closing)
        staying.draw(65_536)
        await trio.sleep(0.06)
        assert staying.draw(65_536) > 40_000
        nursery.cancel_scope.cancel()


async def test_one_channel_moves_as_fast_as_a_high_limit_allows(autojump_clock: MockClock) -> None:
    rates = Rates(30 * RATE)
    credit, drawn = RateCredit(), [0]
    rates.add(credit, PEER)

    async def draw_in_small_steps() -> None:
        while True:
            while got := credit.draw(65_536):
                drawn[0] += got
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rates.run)
        nursery.start_soon(draw_in_small_steps)
        await trio.sleep(2.0)
        assert 0.95 * 60 * RATE <= drawn[0] <= 1.05 * 60 * RATE
        nursery.cancel_scope.cancel()


async def test_what_a_reader_waits_for_comes_before_the_rest(autojump_clock: MockClock) -> None:
    rates = Rates(RATE)
    first, other = RateCredit(), RateCredit()
    first.is_first = True
    drawn = [[0], [0]]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rates.run)
        for credit, count in zip((other, first), drawn, strict=True):
            rates.add(credit, PEER)
            nursery.start_soon(draw_all_the_time, credit, count)
        await trio.sleep(2.0)
        assert drawn[1][0] > 0.9 * 2 * RATE
        rates.remove(first)
        before = drawn[0][0]
        await trio.sleep(2.0)
        assert drawn[0][0] - before > 0.9 * 2 * RATE
        nursery.cancel_scope.cancel()
