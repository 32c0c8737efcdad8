"""Records kept for others: bounded per key, per sender and in all; first come stays."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.discovery.records import RECORD_TTL_S, ProviderRecords

HERE = ("/ip4/10.0.0.1/tcp/4001",)
THERE = ("/ip4/10.0.0.2/tcp/4001",)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def small() -> ProviderRecords:
    return ProviderRecords(records_max=30, records_per_sender_max=10, providers_per_key_max=4)


def test_the_first_providers_of_a_key_stay_and_later_ones_are_told_so() -> None:
    records = small()
    kept = [records.add(key(1), f"peer{number}", HERE, 0.0) for number in range(6)]
    assert kept == [True] * 4 + [False] * 2
    assert [peer for peer, _ in records.get(key(1), 0.0)] == [f"peer{n}" for n in range(4)]
    assert records.add(key(1), "peer0", THERE, 1.0), "one that is kept may repeat itself"
    assert records.get(key(1), 1.0)[0] == ("peer0", THERE)


def test_a_record_ends_with_its_time_and_a_repetition_extends_it() -> None:
    records = small()
    records.add(key(1), "once", HERE, 0.0)
    records.add(key(1), "twice", HERE, 0.0)
    records.add(key(1), "twice", HERE, RECORD_TTL_S - 1)
    assert [peer for peer, _ in records.get(key(1), RECORD_TTL_S)] == ["twice"]
    assert records.get(key(1), 3 * RECORD_TTL_S) == []
    assert (len(records), records.keys_count) == (0, 0)


def test_what_is_out_of_date_frees_its_place_for_others() -> None:
    records = small()
    for number in range(4):
        records.add(key(1), f"squatter{number}", HERE, 0.0)
    assert not records.add(key(1), "honest", HERE, RECORD_TTL_S / 2)
    assert records.add(key(1), "honest", HERE, RECORD_TTL_S + 1)


def test_providers_of_one_network_leave_a_place_of_a_key_to_another() -> None:
    records = small()
    for number in range(4):
        assert records.add(key(1), f"sybil{number}", HERE, 0.0, "squatters")
    assert not records.add(key(1), "sybil4", HERE, 0.0, "squatters")
    assert records.add(key(1), "honest", THERE, 0.0, "home")
    assert records.add(key(1), "other", THERE, 0.0, "office")
    assert not records.add(key(1), "third", THERE, 0.0, "home"), "none has two more than it"
    kept = [peer for peer, _ in records.get(key(1), 0.0)]
    assert kept == ["sybil0", "sybil1", "honest", "other"], "the first of each network stay"
    assert len(records) == 4


def test_one_sender_has_its_share_and_no_more() -> None:
    records = small()
    assert sum(records.add(key(number), "greedy", HERE, 0.0) for number in range(50)) == 10
    assert records.add(key(99), "modest", HERE, 0.0)


def test_a_full_store_takes_from_whoever_has_most() -> None:
    records = small()
    for sender in range(3):
        for number in range(10):
            records.add(key(100 * sender + number), f"sybil{sender}", HERE, 0.0)
    assert len(records) == 30
    for number in range(5):
        assert records.add(key(1000 + number), "honest", HERE, 1.0)
    assert len(records) == 30
    assert all(records.get(key(1000 + number), 1.0) for number in range(5))


@given(st.integers(0, 1 << 32))
def test_counts_and_bounds_hold_in_any_order_of_events(seed: int) -> None:
    rng = random.Random(seed)
    records = small()
    now = 0.0
    for _ in range(300):
        now += rng.choice((0.0, 1.0, RECORD_TTL_S / 20))
        if rng.random() < 0.05:
            records.expire(now)
        network = rng.choice(("one", "other", "third"))
        records.add(key(rng.randrange(15)), f"peer{rng.randrange(8)}", HERE, now, network)
        assert len(records) <= 30
        held = [peer for number in range(15) for peer, _ in records.get(key(number), now)]
        assert len(held) == len(records)
        assert all(held.count(peer) <= 10 for peer in held)
    records.expire(now + 2 * RECORD_TTL_S)
    assert (len(records), records.keys_count) == (0, 0)
