"""A span is asked of a second peer only where that ends the download sooner."""

from __future__ import annotations

import random

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import SendRequest
from p2phub.core.swarm.download import Download
from p2phub.proto.limits import MIB

PAGE = b"a page".ljust(32)
COUNT = 6
HELD = COUNT - 1  # all but the last, by both peers


class Waiting:
    """A download that has got all there is to get but one span: a slow peer is sending that, while
    a fast one is idle.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.download = Download(COUNT * MIB, random.Random(1), span_bytes=MIB)
        self.download.on_page(PAGE, [MIB] * COUNT, bytes(1))
        self.download.on_pages_complete()
        self.download.on_peer("slow", 0.0, requests_max=1)
        self.download.on_peer("fast", 0.0)
        self.download.next_actions(0.0)
        for peer in ("slow", "fast"):
            held = bitsets.to_wire(bitsets.interval(0, HELD), COUNT)
            self.download.on_have(peer, PAGE, held, 0.0)
        self.download.on_unchoke("slow", 0.0)
        (first,) = self.asked()
        self.now = 10.0
        self.download.on_done("slow", first.request_id, self.now)
        (self.last,) = self.asked()
        self.download.on_unchoke("fast", self.now)
        to_send = HELD - 2  # spans that the fast one is still to send
        while to_send:
            for request in self.asked():
                assert request.peer == "fast"
                self.now += 0.1
                self.download.on_done("fast", request.request_id, self.now)
                to_send -= 1

    def asked(self) -> list[SendRequest]:
        actions = self.download.next_actions(self.now)
        return [action for action in actions if isinstance(action, SendRequest)]


def test_who_waits_for_a_span_that_nobody_holds_asks_nobody_twice_meanwhile() -> None:
    waiting = Waiting()
    assert waiting.download.statistics(waiting.now).spans_open_count == 1
    for _ in range(20):
        assert not waiting.asked()
        waiting.now += 0.1


def test_a_faster_peer_is_asked_too_for_the_last_span_of_all() -> None:
    waiting = Waiting()
    waiting.download.on_have_delta("fast", PAGE, [COUNT - 1], waiting.now)
    (request,) = waiting.asked()
    waiting.now += 0.1
    waiting.download.on_done("fast", request.request_id, waiting.now)
    waiting.now += 0.1
    (request,) = waiting.asked()
    assert (request.peer, request.span.index) == ("fast", waiting.last.span.index)
