"""Upload slots: few at once, in turns, by what was given and got; bounded queues."""

from __future__ import annotations

import random

import pytest

from p2phub.core.swarm.actions import SendChoke, SendReject, SendUnchoke, StartUpload, StopUpload
from p2phub.core.swarm.uploads import (
    IDLE_S,
    PATIENCE_S_MAX,
    REQUESTS_PER_PEER_MAX,
    TURN_S,
    Uploads,
)
from p2phub.core.swarm.wire import STARTED_BYTES
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


def test_a_request_is_due_at_once_and_its_end_is_not() -> None:
    uploads, _ = crowd(1, 1)
    uploads.on_request("p0", 1, RUNS, 10, 1.0)
    assert uploads.next_deadline() == float("-inf")
    assert uploads.next_actions(1.0) == [StartUpload("p0", 1, RUNS)]
    uploads.on_upload_done("p0", 1, 1.5)
    assert uploads.next_deadline() is None


def test_a_choked_peer_is_rejected_and_an_oversized_request_too() -> None:
    uploads, peers = crowd(2, 1)
    first = uploads.unchoked[0]
    other = next(peer for peer in peers if peer != first)
    uploads.on_request(other, 7, RUNS, 10, 0.0)
    uploads.on_request(first, 8, RUNS, SPAN_BYTES_MAX + 1, 0.0)
    assert uploads.next_actions(0.0) == [
        SendReject(other, 7, REJECT_CHOKED),
        SendReject(first, 8, REJECT_TOO_LARGE),
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


def served_in_turns(
    uploads: Uploads, peers: list[str], until_s: float, giver: str | None = None
) -> dict[str, int]:
    """Bytes sent to each peer; all have something to ask, and one gives twice what it gets."""
    sent = dict.fromkeys(peers, 0)
    now, number = 0.0, 0
    while now < until_s:
        now += 0.1
        for peer in uploads.unchoked:
            number += 1
            uploads.on_request(peer, number, RUNS, MIB, now)
        for action in uploads.next_actions(now):
            if isinstance(action, StartUpload):
                sent[action.peer] += MIB
                uploads.on_sent(action.peer, MIB, now)
                uploads.on_upload_done(action.peer, action.request_id, now)
                if action.peer == giver:
                    uploads.on_received(action.peer, 2 * MIB, now)
    return sent


def test_who_gives_more_than_it_gets_gets_most() -> None:
    uploads, peers = crowd(10, 4)
    sent = served_in_turns(uploads, peers, 40 * TURN_S, giver="p7")
    others = [size_bytes for peer, size_bytes in sent.items() if peer != "p7"]
    assert sent["p7"] > 2 * max(others)
    assert min(others) > 0


def test_a_seed_serves_everybody_in_turn() -> None:
    uploads, peers = crowd(12, 4)
    sent = served_in_turns(uploads, peers, 40 * TURN_S)
    assert min(sent.values()) > 0.5 * max(sent.values())


def test_a_slot_that_is_lost_rejects_what_was_not_begun_and_nothing_else() -> None:
    uploads, _ = crowd(2, 1)
    first = uploads.unchoked[0]
    for number in range(3):
        uploads.on_request(first, number, RUNS, 8 * MIB, 0.0)
    uploads.next_actions(0.0)
    uploads.withhold(frozenset({first}), 0.1)
    actions = uploads.next_actions(0.1)
    assert actions[:2] == [SendChoke(first), SendReject(first, 2, REJECT_CHOKED)]
    assert uploads.requests_count == 2  # what was begun is sent


def test_a_peer_far_away_is_given_time_to_use_its_slot() -> None:
    uploads, _ = crowd(2, 1)
    now, number, served = 0.0, 0, dict.fromkeys(("p0", "p1"), 0)
    asks: list[tuple[float, str]] = []
    while now < 60.0:
        now += 0.05
        for at, peer in [row for row in asks if row[0] <= now]:
            asks.remove((at, peer))
            number += 1
            uploads.on_request(peer, number, RUNS, MIB, now)
        for action in uploads.next_actions(now):
            if isinstance(action, SendUnchoke):
                asks.append((now + 0.8, action.peer))  # a round trip by satellite
            if isinstance(action, StartUpload):
                served[action.peer] += 1
                uploads.on_upload_done(action.peer, action.request_id, now)
    assert min(served.values()) > 10


def test_peers_too_slow_for_their_slots_do_not_wait_ever_longer() -> None:
    uploads, _ = crowd(20, 2)
    now, number = 0.0, 0
    asks: list[tuple[float, str]] = []
    turns = dict.fromkeys((f"p{n}" for n in range(20)), 0)
    while now < 300.0:
        now += 0.05
        for at, peer in [row for row in asks if row[0] <= now]:
            asks.remove((at, peer))
            number += 1
            uploads.on_request(peer, number, RUNS, MIB, now)
        for action in uploads.next_actions(now):
            if isinstance(action, SendUnchoke):
                turns[action.peer] += 1
                asks.append((now + 4.0, action.peer))  # its processor has more to do
            if isinstance(action, StartUpload):
                uploads.on_upload_done(action.peer, action.request_id, now)
    # Two slots, each lost after PATIENCE_S_MAX at the latest.
    assert sum(turns.values()) >= 2 * 300.0 / PATIENCE_S_MAX * 0.8


def test_a_peer_that_opens_a_lane_has_its_slot_meanwhile() -> None:
    uploads, _ = crowd(3, 1)
    first = uploads.unchoked[0]
    uploads.on_preparing(first, 0.2)
    assert uploads.next_actions(IDLE_S) == []
    uploads.on_request(first, 1, RUNS, MIB, 0.4)
    assert [type(action) for action in uploads.next_actions(0.4)] == [StartUpload]


def test_a_peer_that_only_ever_opens_lanes_loses_its_slot() -> None:
    uploads, _ = crowd(3, 1)
    first = uploads.unchoked[0]
    had_it: set[str] = set()
    for tenth in range(300):
        uploads.on_preparing(first, tenth / 10)
        uploads.next_actions(tenth / 10)
        had_it.update(uploads.unchoked)
    assert had_it == {"p0", "p1", "p2"}


def test_a_slot_that_nobody_uses_goes_to_somebody_who_waits() -> None:
    uploads, _ = crowd(3, 1)
    deadline = uploads.next_deadline()
    assert deadline is not None and deadline <= IDLE_S
    first = uploads.unchoked[0]
    actions = uploads.next_actions(IDLE_S)
    assert actions[0] == SendChoke(first)
    assert isinstance(actions[1], SendUnchoke) and actions[1].peer != first


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
    uploads, peers = crowd(2, 1)
    first = uploads.unchoked[0]
    other = next(peer for peer in peers if peer != first)
    uploads.on_request(first, 1, RUNS, 10, 0.0)
    uploads.on_peer_gone(first, 0.0)
    assert uploads.next_actions(0.0) == [SendUnchoke(other)]
    assert uploads.requests_count == 0
    uploads.on_peer_gone(first, 0.0)


def test_a_slot_that_is_withheld_goes_to_another_and_comes_back() -> None:
    uploads, peers = crowd(3, 2)
    first = uploads.unchoked[0]
    waiting = next(peer for peer in peers if peer not in uploads.unchoked)
    uploads.withhold(frozenset({first}), 1.0)
    assert uploads.next_actions(1.0) == [SendChoke(first), SendUnchoke(waiting)]
    for number in range(1, 100):
        uploads.next_actions(1.0 + number)
        assert first not in uploads.unchoked and len(uploads.unchoked) == 2
    uploads.on_peer_gone(waiting, 200.0)
    uploads.next_actions(200.0)
    assert first not in uploads.unchoked
    uploads.withhold(frozenset(), 201.0)
    assert SendUnchoke(first) in uploads.next_actions(201.0)


def test_a_newcomer_whose_slot_is_withheld_waits() -> None:
    uploads, _ = crowd(1, 4)
    uploads.withhold(frozenset({"p9"}), 0.0)
    uploads.on_peer("p9", 0.0)
    assert uploads.next_actions(0.0) == []
    assert uploads.unchoked == ("p0",)
