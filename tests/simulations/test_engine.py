"""Things happen in the order of their times, and of being planned where these are equal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.engine import SLOT_S, Engine

DELAYS = st.lists(st.floats(0, 5 * SLOT_S) | st.sampled_from([0.0, SLOT_S, 0.025, 7.0]))


@given(delays=DELAYS, follow_up=DELAYS)
def test_things_happen_in_order_also_those_that_others_bring_about(
    delays: list[float], follow_up: list[float]
) -> None:
    engine = Engine()
    happened: list[tuple[float, int]] = []
    planned: list[tuple[float, int]] = []

    def plan(delay_s: float) -> None:
        key = (engine.now + delay_s, len(planned))
        planned.append(key)
        engine.after(delay_s, happen, key)

    def happen(key: tuple[float, int]) -> None:
        assert engine.now == key[0]
        happened.append(key)
        if key[1] < len(follow_up):
            plan(follow_up[key[1]])

    for delay_s in delays:
        plan(delay_s)
    engine.run(1e9)
    assert happened == sorted(planned)
    assert engine.events_count == len(planned)


def test_what_should_have_happened_already_happens_now() -> None:
    engine = Engine()
    times: list[float] = []
    engine.after(1.0, lambda: engine.at(0.5, lambda: times.append(engine.now)))
    engine.run(10.0)
    assert times == [1.0]


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_run_ends_when_it_is_told_to_or_time_is_up(is_stopped: bool) -> None:
    engine = Engine()
    times: list[float] = []
    for time in (1.0, 2.0, 3.0):
        engine.after(time, times.append, time)
    if is_stopped:
        engine.after(1.5, engine.stop)
    engine.run(2.5)
    assert times == ([1.0] if is_stopped else [1.0, 2.0])
    engine.run(9.0)
    assert times == [1.0, 2.0, 3.0]


def test_equal_facts_make_equal_traces_whether_or_not_they_are_the_same_objects() -> None:
    name, copy = "peer-1", "-".join(["peer", "1"])
    assert name is not copy
    traces = []
    for second in (name, copy):
        engine = Engine()
        engine.record(name, "on_request", 7)
        engine.record(second, "complete")
        traces.append(engine.trace)
    assert traces[0] == traces[1]
    engine.record(name, "drops")
    assert engine.trace != traces[0]
