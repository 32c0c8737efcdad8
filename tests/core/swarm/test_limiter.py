"""Limits hold within 5 % over every window of 2 s, fairly, and change while running."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2phub.core.swarm.limiter import GRANT_INTERVAL_S, Limiter

WINDOW_S = 2.0


def granted(
    limiter: Limiter, peers: list[str], seconds: float, start: float, rng: random.Random
) -> list[tuple[float, int]]:
    """What greedy peers get, asked for at slightly irregular times."""
    rows = []
    now = start
    while now < start + seconds:
        rows.append((now, sum(limiter.grant(dict.fromkeys(peers, 1 << 30), now).values())))
        now += GRANT_INTERVAL_S * rng.uniform(0.5, 3.0)
    return rows


def window_sums(rows: list[tuple[float, int]]) -> list[int]:
    return [
        sum(size for at, size in rows if start <= at < start + WINDOW_S)
        for start, _ in rows
        if start + WINDOW_S <= rows[-1][0]
    ]


@settings(max_examples=20, deadline=None)
@given(
    rate=st.sampled_from([20_000, 1_000_000, 50_000_000]),
    count=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_a_rate_is_held_within_five_percent_over_every_two_seconds(
    rate: int, count: int, seed: int
) -> None:
    limiter = Limiter(rate)
    rows = granted(limiter, [f"p{n}" for n in range(count)], 6.0, 100.0, random.Random(seed))
    sums = window_sums(rows)
    assert max(sums) <= 1.05 * rate * WINDOW_S
    assert min(sums) >= 0.95 * rate * WINDOW_S


def test_a_new_rate_holds_at_once() -> None:
    limiter = Limiter(10_000_000)
    granted(limiter, ["a"], 3.0, 0.0, random.Random(1))
    limiter.set_rate(1_000_000, 3.0)
    sums = window_sums(granted(limiter, ["a"], 5.0, 3.0, random.Random(2)))
    assert max(sums) <= 1.05 * 1_000_000 * WINDOW_S
    limiter.set_rate(None, 9.0)
    assert limiter.grant({"a": 1 << 30}, 9.0) == {"a": 1 << 30}


def test_a_limit_of_one_peer_binds_that_peer_only() -> None:
    limiter = Limiter(None)
    limiter.set_peer_rate("slow", 100_000, 0.0)
    total = {"slow": 0, "fast": 0}
    now = 0.0
    while now < 4.0:
        for peer, size in limiter.grant({"slow": 1 << 20, "fast": 1 << 20}, now).items():
            total[peer] += size
        now += GRANT_INTERVAL_S
    assert 0.95 * 400_000 <= total["slow"] <= 1.05 * 400_000
    assert total["fast"] > 100 << 20


def test_who_wants_little_leaves_the_rest_to_the_others() -> None:
    limiter = Limiter(1_000_000)
    limiter.grant({}, 10.0)
    shares = limiter.grant({"small": 1_000, "a": 1 << 20, "b": 1 << 20}, 10.08)
    assert shares["small"] == 1_000
    assert abs(shares["a"] - shares["b"]) <= 1
    assert sum(shares.values()) in (79_999, 80_000)


def test_unused_credit_comes_back() -> None:
    limiter = Limiter(1_000_000)
    limiter.grant({}, 10.0)
    first = limiter.grant({"a": 50_000}, 10.08)["a"]
    limiter.give_back("a", first, 10.08)
    assert limiter.grant({"b": 1 << 20}, 10.08)["b"] in (79_999, 80_000)
