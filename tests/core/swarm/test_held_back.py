"""A limit of our own is no silence of the peers'."""

from __future__ import annotations

import random

from p2phub.core.swarm.actions import DropPeer, SendCancel, SendRequest
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.pipeline import TIMEOUT_S_UNKNOWN
from p2phub.proto.limits import MIB

PAGE = b"a page".ljust(32)


def asked_for_one_chunk() -> Download:
    download = Download(MIB, random.Random(1))
    download.on_page(PAGE, [MIB], b"\0")
    download.on_pages_complete()
    download.on_peer("peer", 0.0)
    download.next_actions(0.0)
    download.on_have("peer", PAGE, b"\x80", 0.0)
    download.on_unchoke("peer", 0.0)
    assert any(isinstance(action, SendRequest) for action in download.next_actions(0.0))
    return download


def test_a_peer_that_we_kept_waiting_is_not_late() -> None:
    download = asked_for_one_chunk()
    for second in range(1, 1000):
        download.on_held_back("peer", 1.0, float(second))
        assert not download.next_actions(float(second))
    assert download.next_deadline() is not None


def test_only_the_time_that_we_kept_it_waiting_is_excused() -> None:
    download = asked_for_one_chunk()
    download.on_held_back("peer", 5.0, 5.0)
    assert not download.next_actions(TIMEOUT_S_UNKNOWN + 4.0)
    late = download.next_actions(TIMEOUT_S_UNKNOWN + 6.0)
    assert any(isinstance(action, SendCancel | DropPeer) for action in late)


def test_who_left_meanwhile_is_of_no_concern() -> None:
    download = asked_for_one_chunk()
    download.on_peer_gone("peer", 1.0)
    download.on_held_back("peer", 1.0, 1.0)
    assert not download.next_actions(1.0)
