"""Bytes are counted by peer, within a bound, and none is lost from the sum."""

from __future__ import annotations

from p2phub.net.base import PeerId
from p2phub.node.peer_bytes import PEERS_COUNTED_MAX, PeerBytes


def test_bytes_are_counted_by_peer_and_in_all() -> None:
    counted = PeerBytes()
    for name, size_bytes in (("a", 3), ("b", 5), ("a", 7)):
        counted.add(PeerId(name), size_bytes)
    assert [counted.of(PeerId(name)) for name in "abc"] == [10, 5, 0]
    assert counted.total == 15


def test_who_moved_nothing_for_longest_is_forgotten_and_still_in_the_sum() -> None:
    counted = PeerBytes()
    counted.add(PeerId("early"), 1)
    counted.add(PeerId("silent"), 2)
    counted.add(PeerId("early"), 4)
    for number in range(PEERS_COUNTED_MAX - 1):
        counted.add(PeerId(f"{number}"), 1)
    assert counted.of(PeerId("silent")) == 0
    assert counted.of(PeerId("early")) == 5
    assert counted.total == 7 + PEERS_COUNTED_MAX - 1
