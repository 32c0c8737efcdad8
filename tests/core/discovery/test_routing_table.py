"""The routing table: proven nodes only, old ones first, no subnet in excess."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.discovery.routing_table import (
    BUCKET_NODES_MAX,
    FAILURES_MAX,
    NODES_PER_SUBNET_MAX,
    POSITION_BITS,
    RoutingTable,
)

PRIVATE = ("/ip4/10.0.0.1/tcp/4001",)
FAR = 1 << (POSITION_BITS - 1)  # the first bit differs from ours: bucket 0


def table() -> RoutingTable:
    return RoutingTable(0)


def test_a_full_bucket_keeps_its_old_nodes_while_they_answer() -> None:
    nodes = table()
    for number in range(3 * BUCKET_NODES_MAX):
        nodes.on_answer(f"peer{number}", FAR + number, PRIVATE)
    assert {node.peer for node in nodes} == {f"peer{n}" for n in range(BUCKET_NODES_MAX)}


def test_a_node_that_fails_makes_room_for_a_spare() -> None:
    nodes = table()
    for number in range(BUCKET_NODES_MAX + 1):
        nodes.on_answer(f"peer{number}", FAR + number, PRIVATE)
    for _ in range(FAILURES_MAX):
        nodes.on_failure("peer0", FAR)
    assert "peer0" not in {node.peer for node in nodes}
    assert f"peer{BUCKET_NODES_MAX}" in {node.peer for node in nodes}


def test_one_lost_packet_drops_nobody_and_an_answer_forgives_it() -> None:
    nodes = table()
    nodes.on_answer("peer", FAR, PRIVATE)
    for _ in range(10):
        nodes.on_failure("peer", FAR)
        nodes.on_answer("peer", FAR, PRIVATE)
    assert len(nodes) == 1


def test_a_newcomer_replaces_a_node_that_did_not_answer_last_time() -> None:
    nodes = table()
    for number in range(BUCKET_NODES_MAX):
        nodes.on_answer(f"peer{number}", FAR + number, PRIVATE)
    nodes.on_failure("peer7", FAR + 7)
    nodes.on_answer("new", FAR + 999, PRIVATE)
    peers = {node.peer for node in nodes}
    assert len(peers) == BUCKET_NODES_MAX and "new" in peers and "peer7" not in peers


def test_one_public_subnet_cannot_fill_a_bucket() -> None:
    nodes = table()
    for number in range(30):
        nodes.on_answer(f"sybil{number}", FAR + number, (f"/ip4/8.8.8.{number}/tcp/4001",))
        nodes.on_answer(f"six{number}", FAR + 100 + number, (f"/ip6/2001:4860::{number}/tcp/1",))
    assert len(nodes) == 2 * NODES_PER_SUBNET_MAX
    nodes.on_answer("elsewhere", FAR + 500, ("/ip4/9.9.9.9/tcp/4001",))
    assert "elsewhere" in {node.peer for node in nodes}


def test_neither_we_nor_nodes_without_addresses_enter() -> None:
    nodes = table()
    nodes.on_answer("self", 0, PRIVATE)
    nodes.on_answer("mute", FAR, ())
    assert len(nodes) == 0
    assert nodes.depth() == 0


@given(st.integers(0, 1 << 32), st.integers(1, 300))
def test_the_closest_nodes_are_the_closest_and_buckets_stay_bounded(seed: int, count: int) -> None:
    rng = random.Random(seed)
    nodes = RoutingTable(rng.getrandbits(POSITION_BITS))
    for number in range(count):
        nodes.on_answer(f"peer{number}", rng.getrandbits(POSITION_BITS), PRIVATE)
        if rng.random() < 0.2:
            known = rng.choice(list(nodes))
            nodes.on_failure(known.peer, known.position)
    target = rng.getrandbits(POSITION_BITS)
    everyone = sorted(nodes, key=lambda node: node.position ^ target)
    assert nodes.closest(target, 20) == everyone[:20]
    buckets: dict[int, int] = {}
    for node in nodes:
        index = nodes.shared_bits(node.position)
        buckets[index] = buckets.get(index, 0) + 1
    assert all(size <= BUCKET_NODES_MAX for size in buckets.values())
    assert len({node.peer for node in nodes}) == len(nodes)
