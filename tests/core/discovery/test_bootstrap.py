"""A node started offline keeps trying, not in step with others, and joins when it can."""

from __future__ import annotations

import random
from itertools import pairwise

from p2phub.core.discovery.bootstrap import (
    ADDRESSES_MAX,
    BACK_OFF_S_MAX,
    DIALS_MAX,
    PEERS_WANTED,
    Bootstrap,
)


def test_an_offline_node_keeps_trying_at_most_a_minute_apart() -> None:
    bootstrap = Bootstrap(["a"], random.Random(1))
    now, times = 0.0, []
    while now < 3600.0:
        if bootstrap.next_dials(now):
            times.append(now)
            bootstrap.on_failed("a", now)
        deadline = bootstrap.next_deadline()
        assert deadline is not None and deadline > now
        now = deadline
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits[0] <= 1.0 and max(waits) <= BACK_OFF_S_MAX and len(waits) > 60
    assert len(set(waits[-10:])) > 5


def test_the_network_coming_back_makes_everybody_due() -> None:
    bootstrap = Bootstrap(["a", "b"], random.Random(1))
    for address in bootstrap.next_dials(0.0):
        bootstrap.on_failed(address, 0.0)
    assert bootstrap.next_dials(0.1) == []
    bootstrap.on_network(0.2)
    assert sorted(bootstrap.next_dials(0.2)) == ["a", "b"]


def test_with_enough_peers_nobody_is_dialled_and_losing_all_starts_again() -> None:
    bootstrap = Bootstrap(["a"], random.Random(1))
    bootstrap.next_dials(0.0)
    bootstrap.on_connected("a", 0.0)
    bootstrap.on_peers(PEERS_WANTED, 0.0)
    assert bootstrap.next_deadline() is None and bootstrap.next_dials(1e6) == []
    bootstrap.on_peers(0, 10.0)
    assert bootstrap.next_dials(10.0) == ["a"]


def test_dials_and_addresses_are_bounded_and_a_removed_one_is_gone() -> None:
    bootstrap = Bootstrap([f"a{n}" for n in range(2 * ADDRESSES_MAX)], random.Random(1))
    first = bootstrap.next_dials(0.0)
    assert len(first) == DIALS_MAX and bootstrap.next_dials(0.0) == []
    bootstrap.remove(first[0])
    bootstrap.on_failed(first[0], 0.0)
    assert len(bootstrap.next_dials(0.0)) == 1
