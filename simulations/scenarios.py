"""Scenarios: who is there, over which links, and how they behave.

All that differs between them is in this file.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_

from p2phub.proto.limits import MIB
from simulations.checkers import Checkers
from simulations.content import Content
from simulations.engine import Engine
from simulations.links import Link
from simulations.peer import Conduct, SimulatedPeer

MBIT = 125_000  # bytes per second
NEIGHBOURS_MAX = 40
TIME_S_MAX = 6 * 3600.0
SEED_COPIES = 1.05  # a little more than a swarm needs
LOOK_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the command line may change."""

    peers_count: int = 8  # that download
    seeds_count: int = 1
    seed: int = 0
    size_bytes: int = 64 * MIB
    chunk_bytes: int = 256 * 1024
    up_bytes_per_s: int = 100 * MBIT
    down_bytes_per_s: int = 400 * MBIT
    delay_s: float = 0.025  # one way


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came out of one simulation."""

    scenario: str
    peers_count: int
    seed: int
    trace: str  # equal for equal settings
    completed_count: int
    last_s: float  # when the last peer was done
    p99_s: float
    median_s: float
    bound_s: float  # fluid bound for the last peer
    ratio: float  # last_s to bound_s
    seed_copies: float  # bytes sent by seeds, in copies of the release
    duplicate_share: float  # of all bytes that peers received
    liars_dropped_count: int
    events_count: int
    steps_count: int  # looked at by the checkers


class World:
    """The peers of one simulation."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.engine = Engine()
        self.rng = random.Random(setting.seed)
        self.content = Content.of(setting.size_bytes, setting.chunk_bytes)
        self.checkers = Checkers()
        self.peers: list[SimulatedPeer] = []
        self.awaited_count = 0  # peers that have not come yet

    def add_awaited(self, name: str) -> None:
        """A peer comes later than others."""
        self.awaited_count -= 1
        self.add(name)

    def add(
        self, name: str, *, is_seed: bool = False, conduct: Conduct = Conduct.HONEST
    ) -> SimulatedPeer:
        """A new peer, connected to NEIGHBOURS_MAX others by chance."""
        setting = self.setting
        link = Link(self.engine, setting.up_bytes_per_s, setting.down_bytes_per_s, setting.delay_s)
        rng = random.Random(self.rng.getrandbits(64))
        peer = SimulatedPeer(
            name, self.engine, link, self.content, rng,
            is_seed=is_seed, conduct=conduct, on_step=self.checkers.check,
        )  # fmt: skip
        others = self.rng.sample(self.peers, min(len(self.peers), NEIGHBOURS_MAX // 2 or 1))
        if len(self.peers) <= NEIGHBOURS_MAX:
            others = list(self.peers)
        for other in others:
            peer.connect(other)
        self.peers.append(peer)
        return peer

    @property
    def downloaders(self) -> list[SimulatedPeer]:
        return [peer for peer in self.peers if not peer.is_seed]

    def run(self) -> None:
        """Until all are done that download."""
        self.engine.run(TIME_S_MAX, self._is_over)
        for peer in self.downloaders:
            assert peer.completed_at is not None, f"{peer.name} never completed"
            self.checkers.check_end(peer)

    def is_spread(self) -> bool:
        """Whether the downloaders together hold everything."""
        return all(
            reduce(or_, (peer.held[page] for peer in self.downloaders)).bit_count() == len(lengths)
            for page, lengths in self.content.pages.items()
        )

    def _is_over(self) -> bool:
        return not self.awaited_count and all(peer.completed_at is not None for peer in self.peers)

    def fluid_bound_s(self) -> float:
        """No swarm can be faster (Kumar and Ross 2006): one seed's uplink, one downlink, all
        uplinks together.
        """
        size = self.content.size_bytes
        honest = [
            peer for peer in self.peers if peer.conduct in (Conduct.HONEST, Conduct.FREE_RIDER)
        ]
        seeds = sum(peer.link.up_bytes_per_s for peer in honest if peer.is_seed)
        givers = [peer for peer in honest if peer.conduct is Conduct.HONEST]
        everybody = sum(peer.link.up_bytes_per_s for peer in givers)
        down = min(peer.link.down_bytes_per_s for peer in self.downloaders)
        return max(size / seeds, size / down, len(self.downloaders) * size / everybody)


def cold_start(world: World) -> None:
    """One seed, one peer: the link alone is the bound."""
    _add_seeds(world)
    world.add("peer-0")


def flash_crowd(world: World) -> None:
    """All peers come at once to the seeds of a new release."""
    _add_seeds(world)
    for number in range(world.setting.peers_count):
        world.add(f"peer-{number}")


def liar(world: World) -> None:
    """A flash crowd with a seed that sends only wrong bytes."""
    _add_seeds(world)
    world.add("liar", is_seed=True, conduct=Conduct.LIAR)
    for number in range(world.setting.peers_count):
        world.add(f"peer-{number}")


def silent_seed(world: World) -> None:
    """A flash crowd with a seed that takes requests and never answers."""
    _add_seeds(world)
    world.add("silent", is_seed=True, conduct=Conduct.SILENT)
    for number in range(world.setting.peers_count):
        world.add(f"peer-{number}")


def free_rider(world: World) -> None:
    """A flash crowd in which one peer gives nothing."""
    _add_seeds(world)
    for number in range(world.setting.peers_count):
        conduct = Conduct.FREE_RIDER if number == 0 else Conduct.HONEST
        world.add(f"peer-{number}", conduct=conduct)


def late_comers(world: World) -> None:
    """A flash crowd of which half comes when the others should have half."""
    _add_seeds(world)
    count = world.setting.peers_count
    for number in range(count - count // 2):
        world.add(f"peer-{number}")
    half_s = world.fluid_bound_s() / 2
    for number in range(count - count // 2, count):
        world.awaited_count += 1
        world.engine.at(half_s, world.add_awaited, f"peer-{number}")


def seeds_die(world: World) -> None:
    """A flash crowd whose seeds are gone for good as soon as the peers have all of it between them,
    or SEED_COPIES were sent.
    """
    _add_seeds(world)
    for number in range(world.setting.peers_count):
        world.add(f"peer-{number}")
    seeds = [peer for peer in world.peers if peer.is_seed]
    all_bytes = world.content.size_bytes

    def look() -> None:
        sent_bytes = sum(seed.link.sent_bytes for seed in seeds)
        if sent_bytes < SEED_COPIES * all_bytes and not world.is_spread():
            world.engine.after(LOOK_S, look)
            return
        for seed in seeds:
            seed.leave()

    look()


SCENARIOS: dict[str, Callable[[World], None]] = {
    build.__name__: build
    for build in (
        cold_start, flash_crowd, free_rider, late_comers, liar, seeds_die, silent_seed,
    )
}  # fmt: skip


def simulate(scenario: str, setting: Setting) -> Report:
    """Run one scenario to its end. Raises AssertionError with the rule that was broken."""
    world = World(setting)
    SCENARIOS[scenario](world)
    world.run()
    times = sorted(peer.completed_at or 0.0 for peer in world.downloaders)
    statistics = [peer.download.statistics(world.engine.now) for peer in world.downloaders]
    received = sum(peer.link.received_bytes for peer in world.downloaders)
    needed = len(world.downloaders) * world.content.size_bytes
    bound_s = world.fluid_bound_s()
    seeds = [peer for peer in world.peers if peer.is_seed and peer.conduct is Conduct.HONEST]
    return Report(
        scenario=scenario,
        peers_count=setting.peers_count,
        seed=setting.seed,
        trace=world.engine.trace,
        completed_count=len(times),
        last_s=times[-1],
        p99_s=times[max(0, int(len(times) * 0.99) - 1)],
        median_s=times[len(times) // 2],
        bound_s=bound_s,
        ratio=times[-1] / bound_s,
        seed_copies=sum(peer.link.sent_bytes for peer in seeds) / world.content.size_bytes,
        duplicate_share=max(0, received - needed) / received,
        liars_dropped_count=sum(len(snapshot.liars) for snapshot in statistics),
        events_count=world.engine.events_count,
        steps_count=world.checkers.steps_count,
    )


def _add_seeds(world: World) -> None:
    for number in range(world.setting.seeds_count):
        world.add(f"seed-{number}", is_seed=True)
