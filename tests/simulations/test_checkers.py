"""A machine that breaks a rule ends the simulation, and the rule is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from p2phub.core.swarm import bitsets
from p2phub.proto.limits import MIB
from simulations.peer import SimulatedPeer
from simulations.scenarios import Setting, World, flash_crowd

Sabotage = Callable[[SimulatedPeer], None]


def lose_an_open_span(peer: SimulatedPeer) -> None:
    picker = peer.download._picker
    picker.take(bitsets.lowest(picker.open))


def open_a_span_in_flight(peer: SimulatedPeer) -> None:
    peer.download._picker.give_back(next(iter(peer.requests.values())).index)


def open_a_span_that_is_complete(peer: SimulatedPeer) -> None:
    planner = peer.download._planner
    complete = next(i for i in range(len(planner)) if planner.is_span_complete(i))
    peer.download._picker.give_back(complete)


def forget_a_request(peer: SimulatedPeer) -> None:
    peer.requests.popitem()


def count_bytes_that_never_came(peer: SimulatedPeer) -> None:
    planner = peer.download._planner
    number, entries = planner.pieces(bitsets.lowest(peer.download._picker.open))[0]
    planner.mark_held(number, entries)


@pytest.mark.parametrize(
    ("sabotage", "rule"),
    [
        (lose_an_open_span, "lost span"),
        (open_a_span_in_flight, "would ask again for what it asked for"),
        (open_a_span_that_is_complete, "fetches again what it has"),
        (forget_a_request, "lost span"),
        (count_bytes_that_never_came, "counts bytes that were not verified"),
    ],
)
def test_a_machine_that_loses_or_repeats_something_is_caught(sabotage: Sabotage, rule: str) -> None:
    world = World(Setting(peers_count=3, size_bytes=16 * MIB))
    flash_crowd(world)
    is_broken = []

    def look() -> None:
        peer = world.downloaders[0]
        statistics = peer.download.statistics(world.engine.now)
        is_begun = peer.content.size_bytes // 4 < peer.held_bytes
        if is_begun and statistics.spans_open_count and peer.requests:
            sabotage(peer)
            is_broken.append(True)
            world.checkers.check_download(peer)  # as after each of its steps
        else:
            world.engine.after(0.01, look)

    world.engine.after(0.01, look)
    with pytest.raises(AssertionError, match=rule):
        world.run()
    assert is_broken


def test_a_machine_that_loses_a_span_ends_the_simulation() -> None:
    world = World(Setting(peers_count=3, size_bytes=16 * MIB))
    flash_crowd(world)
    world.engine.after(0.5, lambda: lose_an_open_span(world.downloaders[0]))
    with pytest.raises(AssertionError, match="peer-0 lost span"):
        world.run()


def test_machines_that_are_left_alone_break_no_rule() -> None:
    world = World(Setting(peers_count=3, size_bytes=16 * MIB))
    flash_crowd(world)
    world.run()
    assert world.checkers.steps_count > 100
