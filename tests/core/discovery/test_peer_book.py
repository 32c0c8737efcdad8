"""The peer book is bounded, backs off, bans for a time, and survives a restart."""

from __future__ import annotations

import json
import random

from p2phub.core.discovery.peer_book import (
    FAILURES_FORGOTTEN,
    PEERS_REMEMBERED_MAX,
    RETRY_S,
    PeerBook,
)
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX

ADDRESS = "/ip4/192.0.2.1/tcp/4001"


def book() -> PeerBook:
    return PeerBook(random.Random(1))


def test_named_peers_come_first_then_who_failed_least_then_who_was_met_last() -> None:
    peers = book()
    for peer in ("old", "new", "failed", "never"):
        peers.add(peer, [ADDRESS])
    peers.add("named", [ADDRESS], is_named=True)
    peers.on_met("old", 10.0)
    peers.on_met("new", 20.0)
    peers.on_failed("failed", 20.0)
    assert peers.next_dials(1000.0, 9) == ["named", "new", "old", "never", "failed"]
    assert peers.next_dials(1000.0, 9, frozenset({"named", "new"})) == ["old", "never", "failed"]


def test_a_failing_peer_is_tried_ever_later_and_then_forgotten() -> None:
    peers = book()
    peers.add("a", [ADDRESS])
    peers.on_failed("a", 0.0)
    assert peers.next_dials(1.0, 1) == []
    assert peers.next_dials(8.0, 1) == ["a"]
    for _ in range(FAILURES_FORGOTTEN):
        peers.on_failed("a", 8.0)
    assert len(peers) == 0


def test_the_book_is_bounded_and_keeps_named_and_met_peers() -> None:
    peers = book()
    peers.add("named", [ADDRESS], is_named=True)
    peers.on_met("met", 1.0, ADDRESS)
    for number in range(PEERS_REMEMBERED_MAX + 50):
        peers.add(f"hint-{number}", [f"/ip4/192.0.2.1/tcp/{number + 1}"] * 40)
    assert len(peers) == PEERS_REMEMBERED_MAX
    assert peers.addresses("named") and peers.addresses("met")


def test_addresses_are_bounded_and_the_one_that_worked_comes_first() -> None:
    peers = book()
    peers.add("a", [f"/ip4/192.0.2.1/tcp/{port}" for port in range(1, 100)])
    assert len(peers.addresses("a")) == ADDRESSES_PER_PEER_MAX
    peers.on_met("a", 0.0, "/ip4/192.0.2.1/tcp/9")
    assert peers.addresses("a")[0] == "/ip4/192.0.2.1/tcp/9"
    peers.add("a", ["/" + "x" * 1000])
    assert all(len(address) < 300 for address in peers.addresses("a"))


def test_a_ban_ends_in_time_and_survives_a_restart() -> None:
    peers = book()
    peers.add("liar", [ADDRESS])
    peers.ban("liar", 100.0)
    again = PeerBook.from_dict(
        json.loads(json.dumps(peers.to_dict(0.0, 1e9))), random.Random(1), 5.0, 1e9 + 50
    )
    assert again.is_banned("liar", 54.0) and not again.is_banned("liar", 56.0)
    assert again.next_dials(54.0, 1) == [] and again.next_dials(56.0, 1) == ["liar"]


def test_a_restart_keeps_addresses_and_tries_everybody_at_once() -> None:
    peers = book()
    peers.on_met("a", 50.0, ADDRESS)
    peers.on_failed("a", 60.0)
    again = PeerBook.from_dict(
        json.loads(json.dumps(peers.to_dict(60.0, 1e9))), random.Random(1), 0.0, 1e9 + 10
    )
    assert again.next_dials(0.0, 1) == ["a"] and again.addresses("a") == (ADDRESS,)
    assert again.peers(0.0)[0].last_met_s_ago == 20.0


def test_damaged_rows_are_left_out() -> None:
    rows = [
        ["ok", [ADDRESS], False, None, None],
        ["bad"],
        [1, 2, 3, 4, 5],
        ["x", [7], False, None, None],
        ["", [], True, None, None],
    ]
    again = PeerBook.from_dict({"version": 1, "peers": rows}, random.Random(1), 0.0, 0.0)
    assert [page.peer for page in again.peers(0.0)] == ["ok"]


def test_the_next_deadline_is_when_somebody_may_be_dialled() -> None:
    peers = book()
    assert peers.next_deadline() is None
    peers.add("never dialled", [ADDRESS])
    peers.add("no address", [])
    assert peers.next_deadline() == float("-inf")
    peers.on_failed("never dialled", 10.0)
    due = peers.next_deadline()
    assert due is not None and due >= 10.0 + RETRY_S
    assert peers.next_dials(due - 0.001, 4) == []
    assert peers.next_dials(due, 4) == ["never dialled"]
    assert peers.next_deadline(frozenset({"never dialled"})) is None


def test_who_hangs_up_at_once_is_not_dialled_again_at_once() -> None:
    peers = book()
    peers.add("peer", [ADDRESS])
    peers.on_met("peer", 10.0)
    assert peers.next_dials(10.1, 4) == []
    assert peers.next_dials(10.0 + RETRY_S, 4) == ["peer"]
