"""The walk towards a key: it ends, asks nobody twice, and finds the nearest."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.discovery.lookup import CLOSEST_MAX, QUESTIONS_AT_ONCE, Lookup
from p2phub.proto.limits import DHT_CANDIDATES_MAX

ADDRESS = ("/ip4/10.0.0.1/tcp/4001",)


def position_of(peer: str) -> int:
    return int(peer)


def lookup(position: int = 0) -> Lookup:
    return Lookup(position, "0", position_of)


def test_the_nearest_are_asked_first_and_a_few_at_a_time() -> None:
    walk = lookup()
    walk.add((str(number), ADDRESS) for number in range(50, 0, -1))
    asked = [candidate.peer for candidate in walk.next_candidates()]
    assert asked == [str(number) for number in range(1, QUESTIONS_AT_ONCE + 1)]
    assert walk.next_candidates() == []
    walk.on_answer("1")
    assert [candidate.peer for candidate in walk.next_candidates()] == [str(QUESTIONS_AT_ONCE + 1)]


def test_we_ourselves_and_nodes_without_addresses_are_never_asked() -> None:
    walk = lookup()
    walk.add([("0", ADDRESS), ("5", ())])
    assert walk.next_candidates() == []
    assert walk.is_done


def test_a_node_that_failed_is_replaced_by_the_next_nearest() -> None:
    walk = lookup()
    walk.add((str(number), ADDRESS) for number in range(1, CLOSEST_MAX + 2))
    asked = set()
    while not walk.is_done:
        for candidate in walk.next_candidates():
            asked.add(candidate.peer)
            (walk.on_failure if candidate.peer == "1" else walk.on_answer)(candidate.peer)
    assert len(asked) == CLOSEST_MAX + 1
    assert walk.closest()[0].peer == "2"
    assert walk.asked_count == CLOSEST_MAX + 1
    assert walk.answered_count == CLOSEST_MAX


def test_liars_who_name_ever_nearer_liars_are_followed_only_so_far() -> None:
    walk = lookup()
    walk.add([(str(1 << 60), ADDRESS)])
    nearest = 1 << 60
    while not walk.is_done:
        for candidate in walk.next_candidates():
            walk.on_answer(candidate.peer)
            walk.add((str(nearest - number), ADDRESS) for number in range(1, 41))
            nearest -= 40
    assert walk.asked_count <= DHT_CANDIDATES_MAX


@given(st.integers(0, 1 << 32), st.integers(2, 80))
def test_in_a_network_where_each_knows_some_the_nearest_are_found(seed: int, count: int) -> None:
    rng = random.Random(seed)
    peers = [str(rng.getrandbits(64)) for _ in range(count)]
    target = rng.getrandbits(64)
    # Each knows those near to it and a few of everywhere, as routing tables do.
    knows = {
        peer: sorted(peers, key=lambda other: int(other) ^ int(peer))[:20] + rng.sample(peers, 2)
        for peer in peers
    }
    walk = Lookup(target, "own", position_of)
    walk.add([(rng.choice(peers), ADDRESS)])
    asked: list[str] = []
    while not walk.is_done:
        candidates = walk.next_candidates()
        assert candidates, "a walk that waits for nobody must be done"
        for candidate in candidates:
            asked.append(candidate.peer)
            walk.on_answer(candidate.peer)
            nearest = sorted(set(knows[candidate.peer]), key=lambda other: int(other) ^ target)
            walk.add((other, ADDRESS) for other in nearest[:20])
    assert len(asked) == len(set(asked))
    best = sorted(peers, key=lambda other: int(other) ^ target)
    if count <= 20:
        assert [found.peer for found in walk.closest()] == best
    assert walk.closest()[0].peer in best[:3]
