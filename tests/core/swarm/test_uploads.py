"""Upload slots: reciprocity, one optimistic, fairness among the rest; bounded queues."""

from __future__ import annotations

import random

import pytest

from p2phub.core.swarm.actions import SendChoke, SendReject, SendUnchoke, StartUpload, StopUpload
from p2phub.core.swarm.uploads import IDLE_S, REQUESTS_PER_PEER_MAX, ROUND_S, STARTED_BYTES, Uploads
from p2phub.errors import ProtocolViolation
from p2phub.proto.limits import MIB, SPAN_BYTES_MAX
from p2phub.proto.messages import REJECT_BUSY, REJECT_CHOKED, REJECT_TOO_LARGE, Run

RUNS = (Run(b"p" * 32, 0, 1),)


def crowd(count: int, slots_count: int) -> tuple[Uploads, list[str]]:
    uploads = Uploads(random.Random(1), slots_count)
    peers = [f"p{number}" for number in range(count)]
    for peer in peers:
        uploads.on_peer(peer, 0.0)
    uploads.next_actions(0.0)
    return uploads, peers


def test_everybody_has_a_slot_while_there_are_enough() -> None:
    uploads, peers = crowd(4, 4)
    assert uploads.unchoked == tuple(peers)
    assert uploads.next_deadline() is None


def test_a_choked_peer_is_rejected_and_an_oversized_request_too() -> None:
    uploads, _ = crowd(2, 1)
    uploads.on_request("p1", 7, RUNS, 10, 0.0)
    uploads.on_request("p0", 8, RUNS, SPAN_BYTES_MAX + 1, 0.0)
    assert uploads.next_actions(0.0) == [
        SendReject("p1", 7, REJECT_CHOKED),
        SendReject("p0", 8, REJECT_TOO_LARGE),
    ]


def test_the_queue_of_one_peer_is_bounded() -> None:
    uploads, _ = crowd(1, 1)
    for number in range(REQUESTS_PER_PEER_MAX + 1):
        uploads.on_request("p0", number, RUNS, 8 * MIB, 0.0)
    actions = uploads.next_actions(0.0)
    assert [a for a in actions if isinstance(a, SendReject)] == [
        SendReject("p0", REQUESTS_PER_PEER_MAX, REJECT_BUSY)
    ]
    assert len([a for a in actions if isinstance(a, StartUpload)]) == STARTED_BYTES // (8 * MIB)
    assert uploads.requests_count == REQUESTS_PER_PEER_MAX


def test_requests_start_in_order_and_a_cancelled_one_is_stopped_or_forgotten() -> None:
    uploads, _ = crowd(1, 1)
    for number in range(4):
        uploads.on_request("p0", number, RUNS, 8 * MIB, 0.0)
    assert uploads.next_actions(0.0) == [StartUpload("p0", 0, RUNS), StartUpload("p0", 1, RUNS)]
    uploads.on_cancel("p0", 0, 0.0)
    uploads.on_cancel("p0", 2, 0.0)
    uploads.on_cancel("p0", 99, 0.0)
    assert uploads.next_actions(0.0) == [StopUpload("p0", 0), StartUpload("p0", 3, RUNS)]


def test_one_id_for_two_requests_is_a_violation() -> None:
    uploads, _ = crowd(1, 1)
    uploads.on_request("p0", 1, RUNS, 10, 0.0)
    with pytest.raises(ProtocolViolation):
        uploads.on_request("p0", 1, RUNS, 10, 0.0)


def test_givers_keep_their_slots() -> None:
    uploads, _ = crowd(10, 4)
    for now in range(1, 31):
        for peer in ("p7", "p8"):
            uploads.on_received(peer, 1_000_000, float(now))
        for peer in uploads.unchoked:
            uploads.on_request(peer, now, RUNS, 10, float(now))
        uploads.next_actions(float(now))
    assert {"p7", "p8"} <= set(uploads.unchoked)
    assert len(uploads.unchoked) == 4


def test_a_seed_serves_everybody_in_turn() -> None:
    uploads, peers = crowd(12, 4)
    sent = dict.fromkeys(peers, 0)
    now, number = 0.0, 0
    while now < 40 * ROUND_S:
        now += 1.0
        for peer in uploads.unchoked:
            number += 1
            uploads.on_request(peer, number, RUNS, 1_000_000, now)
        for action in uploads.next_actions(now):
            if isinstance(action, StartUpload):
                sent[action.peer] += 1_000_000
                uploads.on_sent(action.peer, 1_000_000, now)
                uploads.on_upload_done(action.peer, action.request_id, now)
    assert min(sent.values()) > 0.5 * max(sent.values())


def test_a_slot_that_nobody_uses_goes_to_somebody_who_waits() -> None:
    uploads, _ = crowd(3, 1)
    deadline = uploads.next_deadline()
    assert deadline is not None and deadline <= IDLE_S
    actions = uploads.next_actions(IDLE_S)
    assert actions == [SendChoke("p0"), SendUnchoke("p1")]


def test_idle_peers_pass_a_slot_on_ever_more_seldom() -> None:
    uploads, _ = crowd(40, 32)
    now, changes = 0.0, 0
    while now < 600.0:
        deadline = uploads.next_deadline()
        assert deadline is not None
        now = max(now, deadline)
        changes += len(uploads.next_actions(now))
    assert changes / 600.0 < 4.0  # messages a second among forty idle peers


def test_a_peer_that_leaves_frees_its_slot_and_its_queue() -> None:
    uploads, _ = crowd(2, 1)
    uploads.on_request("p0", 1, RUNS, 10, 0.0)
    uploads.on_peer_gone("p0", 0.0)
    assert uploads.next_actions(0.0) == [SendUnchoke("p1")]
    assert uploads.requests_count == 0
    uploads.on_peer_gone("p0", 0.0)


def test_a_slot_that_is_withheld_goes_to_another_and_comes_back() -> None:
    uploads, _ = crowd(3, 2)
    uploads.withhold(frozenset({"p0"}), 1.0)
    assert uploads.next_actions(1.0) == [SendChoke("p0"), SendUnchoke("p2")]
    for number in range(1, 100):
        uploads.next_actions(1.0 + number)
        assert "p0" not in uploads.unchoked and len(uploads.unchoked) == 2
    uploads.on_peer_gone("p2", 200.0)
    assert "p0" not in uploads.unchoked
    uploads.withhold(frozenset(), 201.0)
    assert SendUnchoke("p0") in uploads.next_actions(201.0)


def test_a_newcomer_whose_slot_is_withheld_waits() -> None:
    uploads, _ = crowd(1, 4)
    uploads.withhold(frozenset({"p9"}), 0.0)
    uploads.on_peer("p9", 0.0)
    assert uploads.next_actions(0.0) == []
    assert uploads.unchoked == ("p0",)
