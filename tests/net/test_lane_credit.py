"""Rate credit: free without a limit, exact with one, and nobody is left waiting."""

from __future__ import annotations

import threading

from p2phub.net.lane_credit import RateCredit
from p2phub.proto.limits import LANE_CREDIT_BYTES, MIB


def test_without_a_limit_everything_is_granted() -> None:
    credit = RateCredit()
    assert credit.draw(MIB) == MIB
    assert credit.wanted_bytes == 0
    assert credit.drain() == 0


def test_a_limit_grants_what_was_refilled_in_small_steps() -> None:
    credit = RateCredit()
    credit.limit()
    assert credit.draw(MIB) == 0
    assert credit.wanted_bytes == LANE_CREDIT_BYTES
    credit.refill(LANE_CREDIT_BYTES + 10)
    assert credit.wanted_bytes == 0
    assert credit.draw(MIB) == LANE_CREDIT_BYTES
    assert credit.draw(4) == 4
    assert credit.draw(MIB) == 6
    assert credit.draw(1) == 0


def test_what_was_not_drawn_can_be_taken_back() -> None:
    credit = RateCredit()
    credit.limit()
    credit.refill(100)
    credit.draw(30)
    assert credit.drain() == 70
    assert credit.draw(1) == 0


def test_who_waits_is_woken_by_a_refill() -> None:
    credit = RateCredit()
    credit.limit()
    granted: list[int] = []
    thread = threading.Thread(target=lambda: granted.append(credit.draw(50, 5.0)))
    thread.start()
    credit.refill(20)
    thread.join(5)
    assert granted == [20]


def test_who_waits_is_woken_when_the_limit_is_lifted() -> None:
    credit = RateCredit()
    credit.limit()
    granted: list[int] = []
    thread = threading.Thread(target=lambda: granted.append(credit.draw(MIB, 5.0)))
    thread.start()
    credit.unlimit()
    thread.join(5)
    assert granted[0] in (LANE_CREDIT_BYTES, MIB)
    assert credit.wanted_bytes == 0


def test_a_new_limit_starts_from_nothing() -> None:
    credit = RateCredit()
    credit.limit()
    credit.refill(MIB)
    credit.unlimit()
    credit.limit()
    assert credit.draw(1) == 0
    credit.refill(5)
    credit.limit()
    assert credit.draw(10) == 5
