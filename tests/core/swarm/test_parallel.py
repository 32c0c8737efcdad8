"""How many are served at once: few where the uplink is the bound, more where the takers are."""

from __future__ import annotations

import pytest

from p2phub.core.swarm.parallel import SERVED_MIN, SERVED_UNKNOWN, SPAN_S, Parallel
from p2phub.proto.limits import MIB


def counts(up_bytes_per_s: float, taker_bytes_per_s: float, limit: int = 32) -> list[int]:
    """The count, second by second, where everybody always wants more."""
    parallel = Parallel(limit)
    found = []
    for tenth in range(3000):
        now = tenth / 10
        rate = min(up_bytes_per_s, parallel.count * taker_bytes_per_s)
        parallel.on_request(MIB)
        parallel.on_queue(1, now)
        parallel.on_sent(int(rate / 10), now)
        parallel.adapt(now)
        if not tenth % 10:
            found.append(parallel.count)
    return found


def test_a_slow_uplink_serves_few_at_once() -> None:
    found = counts(12.5 * MIB, 50 * MIB)
    assert found[0] == SERVED_UNKNOWN
    assert sorted(found)[len(found) // 2] == max(SERVED_MIN, int(12.5 * SPAN_S))
    assert max(found[5:]) <= 2 * SERVED_MIN  # in a trial


def test_a_fast_uplink_serves_many_at_once() -> None:
    assert set(counts(1000 * MIB, 50 * MIB)[5:]) == {32}


@pytest.mark.parametrize("taker_mib_per_s", [0.5, 2.0])
def test_slow_takers_are_served_in_such_numbers_that_the_uplink_is_full(
    taker_mib_per_s: float,
) -> None:
    found = counts(12 * MIB, taker_mib_per_s * MIB)
    wanted = min(32, int(12 / taker_mib_per_s))
    late = sorted(found[150:])
    assert late[len(late) // 4] >= 0.6 * wanted


def test_the_limit_is_kept() -> None:
    assert max(counts(1000 * MIB, 1 * MIB, limit=3)) == 3


def test_takers_that_are_slow_to_ask_do_not_make_the_uplink_look_slow() -> None:
    parallel = Parallel(32)
    for second in range(60):
        for _ in range(4):  # each asks once in a second and is served at once
            parallel.on_request(MIB)
            parallel.on_queue(1, float(second))
            parallel.on_sent(MIB, second + 0.01)
            parallel.on_queue(0, second + 0.01)
        parallel.adapt(second + 0.5)
    assert parallel.count == 32


def test_a_time_without_requests_leaves_the_count_as_it_is() -> None:
    parallel = Parallel(32)
    parallel.on_request(MIB)
    parallel.on_queue(1, 0.0)
    for tenth in range(100):
        parallel.on_sent(20 * MIB // 10, tenth / 10)
        parallel.adapt(tenth / 10)
    parallel.on_queue(0, 9.95)
    before = parallel.count
    assert before < SERVED_UNKNOWN
    for second in range(10, 100):
        parallel.adapt(float(second))
        assert parallel.count <= before
