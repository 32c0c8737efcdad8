"""Who fails is asked again after a pause, however much was asked of it when it failed."""

from __future__ import annotations

import random

import pytest

from p2phub.core.swarm.actions import SendRequest
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.pipeline import PAUSE_S, PAUSE_S_MAX
from p2phub.proto.limits import MIB
from p2phub.proto.messages import REJECT_BUSY

PAGE = b"a page".ljust(32)
COUNT = 512
RATE_BYTES_PER_S = 100 * MIB


class Asked:
    """A download whose only peer sends so fast that many requests are in flight."""

    def __init__(self) -> None:
        self.now = 0.0
        self.download = Download(COUNT * MIB, random.Random(1))
        self.download.on_page(PAGE, [MIB] * COUNT, bytes(COUNT // 8))
        self.download.on_pages_complete()
        self.download.on_peer("peer", 0.0)
        self.download.next_actions(0.0)
        self.download.on_have("peer", PAGE, b"\xff" * (COUNT // 8), 0.0)
        self.download.on_unchoke("peer", 0.0)
        self.in_flight = self.requested()
        for _ in range(100):
            self.now += MIB / RATE_BYTES_PER_S
            self.download.on_done("peer", self.in_flight.pop(0), self.now)
            self.in_flight += self.requested()
        assert len(self.in_flight) > 6

    def requested(self) -> list[int]:
        actions = self.download.next_actions(self.now)
        return [action.request_id for action in actions if isinstance(action, SendRequest)]

    def fail(self, code: int | None) -> None:
        for request_id in self.in_flight:
            if code is None:
                self.download.on_failed("peer", request_id, self.now)
            else:
                self.download.on_reject("peer", request_id, code, self.now)
        self.in_flight = self.requested()

    def wait(self) -> float:
        """Until it is asked again; how long that took."""
        since = self.now
        while not self.in_flight:
            due = self.download.next_deadline()
            assert due is not None
            self.now = max(self.now, due)
            self.in_flight = self.requested()
        return self.now - since


@pytest.mark.parametrize("code", [None, REJECT_BUSY])
def test_one_break_is_one_pause_however_many_requests_it_cost(code: int | None) -> None:
    asked = Asked()
    asked.fail(code)
    assert not asked.in_flight
    assert PAUSE_S <= asked.wait() <= 1.5 * PAUSE_S


def test_breaks_in_a_row_make_longer_pauses_up_to_a_bound() -> None:
    asked = Asked()
    pauses_s = []
    for _ in range(10):
        asked.fail(None)
        pauses_s.append(asked.wait())
    assert pauses_s[1] > 1.3 * PAUSE_S and pauses_s[2] > 2.6 * PAUSE_S
    assert PAUSE_S_MAX <= max(pauses_s) <= 1.5 * PAUSE_S_MAX


def test_a_chunk_that_came_makes_the_next_pause_short_again() -> None:
    asked = Asked()
    for _ in range(5):
        asked.fail(None)
        asked.wait()
    asked.download.on_done("peer", asked.in_flight.pop(0), asked.now)
    asked.in_flight += asked.requested()
    asked.fail(None)
    assert asked.wait() <= 1.5 * PAUSE_S
