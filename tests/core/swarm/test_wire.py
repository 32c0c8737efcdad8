"""Whose request is sent next: few peers at once, each in turn, and nobody waits for a slow one."""

from __future__ import annotations

from p2phub.core.swarm.wire import (
    AHEAD_S,
    SLOW_S,
    SLOW_S_MIN,
    STARTED_BYTES,
    Line,
    Request,
    Wire,
)
from p2phub.proto.limits import MIB
from p2phub.proto.messages import Run

RUNS = (Run(b"p" * 32, 0, 1),)


class Crowd:
    """Peers with requests of 1 MiB, numbered over all."""

    def __init__(self, *counts: int) -> None:
        self.wire = Wire()
        self.lines = [Line(f"p{number}") for number in range(len(counts))]
        self._next_id = 0
        for line, count in zip(self.lines, counts, strict=True):
            self.ask(line, count)

    def ask(self, line: Line, count: int = 1, now: float = 0.0) -> None:
        for _ in range(count):
            self.wire.on_request(line, Request(self._next_id, RUNS, MIB), now)
            self._next_id += 1

    def start(self, now: float = 0.0) -> list[str]:
        """Whose requests are started now."""
        return [peer for peer, _ in self.wire.next_starts(now)]

    def end(self, line: Line, now: float) -> None:
        """The oldest request of a peer was sent."""
        self.wire.on_closed(line, next(iter(line.requests.values())), now)


def test_two_are_sent_to_at_once_and_the_others_in_the_order_in_which_they_asked() -> None:
    crowd = Crowd(1, 1, 1, 1)
    assert crowd.start() == ["p0", "p1"]
    assert crowd.start(0.1) == []
    crowd.end(crowd.lines[1], 0.2)
    assert crowd.wire.next_deadline() == float("-inf")
    assert crowd.start(0.2) == ["p2"]
    crowd.end(crowd.lines[0], 0.3)
    assert crowd.start(0.3) == ["p3"]
    assert crowd.wire.next_deadline() is None


def test_whoever_asked_for_more_has_its_next_turn_behind_the_others() -> None:
    crowd = Crowd(3, 1, 1)
    assert crowd.start() == ["p0", "p1"]
    crowd.end(crowd.lines[0], 0.1)
    assert crowd.start(0.1) == ["p2"]
    crowd.end(crowd.lines[1], 0.2)
    assert crowd.start(0.2) == ["p0"]


def test_one_alone_has_two_started_and_on_a_fast_wire_more() -> None:
    crowd = Crowd(40)
    assert crowd.start() == ["p0"] * 2
    crowd.wire.on_sent(MIB, 0.001)
    crowd.end(crowd.lines[0], 0.001)
    assert crowd.start(0.001) == ["p0"] * (STARTED_BYTES // MIB - 1)


def test_a_fast_wire_is_given_to_more_peers_at_once() -> None:
    crowd = Crowd(*[1] * 40)
    assert len(crowd.start()) == 2
    crowd.wire.on_sent(MIB, AHEAD_S / 10)
    assert len(crowd.start(AHEAD_S / 10)) >= 10 - 2


def test_time_in_which_nothing_was_asked_for_does_not_make_the_wire_look_slow() -> None:
    crowd = Crowd(*[0] * 40)
    for line in crowd.lines:
        crowd.ask(line, now=1000.0)
    assert len(crowd.start(1000.0)) == 2
    crowd.wire.on_sent(MIB, 1000.0 + AHEAD_S / 10)
    assert len(crowd.start(1000.0 + AHEAD_S / 10)) >= 10 - 2


def test_nobody_waits_for_peers_that_take_nothing() -> None:
    crowd = Crowd(*[1] * 6)
    assert crowd.start() == ["p0", "p1"]
    assert crowd.wire.next_deadline() == SLOW_S
    assert crowd.start(SLOW_S) == ["p2", "p3"]
    crowd.end(crowd.lines[2], SLOW_S + 0.1)
    assert crowd.start(SLOW_S + 0.1) == ["p4"]


def test_a_slow_peer_keeps_nobody_waiting_until_it_is_quick_again() -> None:
    crowd = Crowd(3, 3, 3)
    slow, first, second = crowd.lines
    assert crowd.start() == ["p0", "p1"]
    crowd.end(first, 0.1)
    assert crowd.start(0.1) == ["p2"]
    crowd.end(second, 0.2)
    assert crowd.start(0.2) == ["p0", "p1"]
    crowd.end(slow, 0.45)
    assert slow.is_slow
    assert crowd.start(0.45) == ["p2"]
    crowd.end(first, 0.5)
    assert crowd.start(0.5) == ["p0", "p1"]  # p0 is known to be slow
    crowd.end(slow, 0.6)
    assert not slow.is_slow


def test_who_reads_slowly_on_purpose_holds_nobody_up_for_long() -> None:
    """Two of six take nine tenths of what would be slow on any wire; the others 10 ms a request."""
    crowd = Crowd(*[100] * 6)
    slow = crowd.lines[:2]
    under_way: dict[str, float] = {}  # when each is done
    done_count, now = 0, 0.0
    by_name = {str(line.peer): line for line in crowd.lines}
    while now < 10.0:
        for peer in crowd.start(now):
            took_s = 0.9 * SLOW_S if by_name[peer] in slow else 0.01
            under_way.setdefault(peer, now + took_s)
        due = crowd.wire.next_deadline()
        now = max(now, min([*under_way.values(), *([due] if due is not None else [])]))
        for peer, at in list(under_way.items()):
            if at <= now:
                del under_way[peer]
                crowd.end(by_name[peer], now)
                done_count += by_name[peer] not in slow
                if by_name[peer].started_count:
                    under_way[peer] = now + (0.9 * SLOW_S if by_name[peer] in slow else 0.01)
    assert done_count >= 4 * 10.0 / SLOW_S_MIN


def test_who_leaves_takes_its_requests_and_its_place_along() -> None:
    crowd = Crowd(1, 1, 1, 1)
    crowd.start()
    crowd.wire.on_gone(crowd.lines[0])
    crowd.wire.on_gone(crowd.lines[2])
    assert crowd.start(0.1) == ["p3"]
