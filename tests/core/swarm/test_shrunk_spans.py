"""What came of a span that was given up decides who is asked for its rest."""

from __future__ import annotations

import random

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import SendRequest
from p2phub.core.swarm.availability import Availability
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.spans import SpanPlanner
from p2phub.proto.limits import KIB, MIB
from p2phub.proto.messages import REJECT_CHOKED, Run

PAGE = b"a page".ljust(32)
LENGTHS = [256 * KIB] * 4


def requests(download: Download) -> list[SendRequest]:
    return [action for action in download.next_actions(0.0) if isinstance(action, SendRequest)]


def test_the_rest_of_a_span_is_asked_of_a_peer_that_holds_no_more_than_the_rest() -> None:
    download = Download(MIB, random.Random(1), span_bytes=MIB)
    download.on_page(PAGE, LENGTHS, bytes(1))
    download.on_pages_complete()
    for peer in ("all", "rest"):
        download.on_peer(peer, 0.0)
    download.next_actions(0.0)
    for peer, held in (("all", {0, 1, 2, 3}), ("rest", {1, 2, 3})):
        download.on_have(peer, PAGE, bitsets.to_wire(bitsets.from_members(held), 4), 0.0)
        download.on_unchoke(peer, 0.0)
    (asked,) = requests(download)
    assert asked.peer == "all"
    download.on_progress("all", asked.request_id, 1, 0.0)
    download.on_reject("all", asked.request_id, REJECT_CHOKED, 0.0)
    (asked,) = requests(download)
    assert (asked.peer, asked.span.runs) == ("rest", (Run(PAGE, 1, 4),))


def test_a_span_of_which_nothing_came_is_judged_no_second_time() -> None:
    planner = SpanPlanner(MIB, MIB)
    planner.add(PAGE, LENGTHS, 0)
    planner.close_tail()
    availability = Availability(planner)
    holdings = availability.join()
    availability.set_page(holdings, 0, 0b1110)
    planner.mark_held(0, 0b0001)
    availability.judge_shrunk(0)
    assert (holdings.part, holdings.whole) == (1, 0)  # nobody said that it shrank
    availability.shrunk.add(0)
    availability.judge_shrunk(0)
    assert (holdings.part, holdings.whole) == (0, 1)
    assert not availability.shrunk
