"""What is asked of a seed that makes offers: those first, and the rest soon after the last."""

from __future__ import annotations

import random

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import SendRequest
from p2phub.core.swarm.download import Download
from p2phub.proto.limits import MIB
from p2phub.proto.messages import Run

PAGE = b"p" * 32
COUNT = 8
FULL = bitsets.to_wire(bitsets.interval(0, COUNT), COUNT)
NONE = bitsets.to_wire(0, COUNT)


def download() -> Download:
    """From a seed that makes offers, and a peer that holds nothing yet."""
    machine = Download(COUNT * MIB, random.Random(1))
    machine.on_page(PAGE, [MIB] * COUNT, NONE)
    machine.on_pages_complete()
    for peer, bits in (("seed", FULL), ("other", NONE)):
        machine.on_peer(peer, 0.0)
        machine.next_actions(0.0)
        machine.on_have(peer, PAGE, bits, 0.0)
    machine.on_offer("seed", Run(PAGE, 5, 6), 0.0)
    machine.on_unchoke("seed", 0.0)
    return machine


def requested(machine: Download, now: float) -> list[tuple[int, int]]:
    """Requests made now: their ids, and their first entries."""
    actions = machine.next_actions(now)
    return [(a.request_id, a.span.runs[0].start) for a in actions if isinstance(a, SendRequest)]


def test_what_was_offered_is_asked_for_and_nothing_else_while_more_may_be_offered() -> None:
    machine = download()
    [(request_id, entry)] = requested(machine, 0.0)
    assert entry == 5
    machine.on_done("seed", request_id, 1.0)
    assert requested(machine, 1.0) == []


def test_a_seed_that_offers_no_more_is_asked_for_the_rest_half_a_second_later() -> None:
    machine = download()
    [(request_id, _)] = requested(machine, 0.0)
    machine.on_done("seed", request_id, 1.0)
    assert requested(machine, 1.0) == []
    due = machine.next_deadline()
    assert due is not None and due <= 1.5
    assert requested(machine, due)
