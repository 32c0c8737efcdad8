"""A simulated peer tells its neighbours what the daemon would tell them."""

from __future__ import annotations

from p2phub.proto.limits import MIB
from simulations.scenarios import Setting, World, flash_crowd
from simulations.watching import DELTA_PERIOD_S


def test_of_two_who_fetch_one_chunk_only_the_first_tells_the_other() -> None:
    world = World(Setting(peers_count=6, size_bytes=32 * MIB))
    flash_crowd(world)
    world.run()
    chunks_count = sum(map(len, world.content.pages.values()))
    told_count = sum(peer.watching.told_count for peer in world.downloaders)
    # Five neighbours for each chunk of each of six, and the seed, which hears of all; half of the
    # neighbours know already. What crosses on the way, and the last chunks, are told both ways.
    pairs_count = 6 * 5 // 2
    assert (pairs_count * 0.9 + 6) * chunks_count <= told_count
    assert told_count <= (pairs_count * 1.25 + 6) * chunks_count


def test_news_go_out_once_in_a_period_however_many_chunks_come() -> None:
    world = World(Setting(peers_count=4, size_bytes=32 * MIB, chunk_bytes=MIB // 16))
    flash_crowd(world)
    world.run()
    for peer in world.downloaders:
        assert peer.completed_at is not None
        assert 10 < peer.watching.deltas_count <= peer.completed_at / DELTA_PERIOD_S + 2


def test_spans_are_as_large_as_the_setting_says() -> None:
    world = World(Setting(peers_count=1, size_bytes=8 * MIB, span_bytes=MIB))
    peer = world.add("peer")
    assert peer.download.statistics(0.0).spans_count == 8
