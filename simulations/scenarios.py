"""Scenarios: who is there, over which links, and how they behave.

All that differs between them is in this file.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
NEIGHBOURS_LET_IN_MAX = 2 * NEIGHBOURS_MAX  # with those that come later
TIME_S_MAX = 6 * 3600.0
LOOK_S = 0.01
SLOW_SEED = 10.0  # times slower than a peer
FREE_RIDERS_ONE_OF = 8
CHURN_ONE_OF = 5
SAMPLES_PER_BOUND = 50  # points of the curves, until the time of the fluid bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the command line may change."""

    peers_count: int = 8  # that download
    seeds_count: int = 1
    seed: int = 0
    size_bytes: int = 64 * MIB
    chunk_bytes: int = 256 * 1024
    span_bytes: int | None = None  # None: as large as the daemon makes them
    up_bytes_per_s: int = 100 * MBIT
    down_bytes_per_s: int = 400 * MBIT
    delay_s: float = 0.025  # one way


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of the curves."""

    time_s: float
    utilisation: float  # of all uplinks, since the sample before
    least: float  # share of the release that the peers hold: the last, the median, the first
    median: float
    most: float


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
    p99_ratio: float
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
        self.samples: list[Sample] = []
        self._sent_bytes = 0  # when the last sample was taken
        self._watched: SimulatedPeer | None = None
        self.awaited_count = 0  # peers that have not come yet

    def add_awaited(self, name: str) -> None:
        """A peer comes later than others: they have all the neighbours they looked for, and let it
        in.
        """
        self.awaited_count -= 1
        self.recruit(self.add(name), NEIGHBOURS_LET_IN_MAX)

    def add(
        self, name: str, *, is_seed: bool = False, conduct: Conduct = Conduct.HONEST
    ) -> SimulatedPeer:
        """A new peer, without neighbours yet."""
        setting = self.setting
        link = Link(self.engine, setting.up_bytes_per_s, setting.down_bytes_per_s, setting.delay_s)
        rng = random.Random(self.rng.getrandbits(64))
        peer = SimulatedPeer(
            name, self.engine, link, self.content, rng,
            span_bytes=setting.span_bytes, is_seed=is_seed, conduct=conduct,
            on_downloaded=self._on_downloaded, on_uploaded=self.checkers.check_uploads,
        )  # fmt: skip
        self.peers.append(peer)
        return peer

    def connect(self) -> None:
        """Give everybody NEIGHBOURS_MAX others by chance, or all where there are no more: two who
        both have room become neighbours, seeds first, as a tracker or a DHT spreads them.
        """
        count = len(self.peers)
        if count <= NEIGHBOURS_MAX + 1:
            for number, peer in enumerate(self.peers):
                for other in self.peers[:number]:
                    peer.connect(other)
            return
        for peer in self.peers:
            self.recruit(peer)

    def recruit(self, peer: SimulatedPeer, others_max: int = NEIGHBOURS_MAX) -> None:
        """Neighbours for one peer, as far as there are peers with fewer than others_max."""
        room = NEIGHBOURS_MAX - len(peer.neighbours)
        others = [
            other
            for other in self.peers
            if len(other.neighbours) < others_max
            and other is not peer
            and other.name not in peer.neighbours
            and not other.is_gone
        ]
        for other in self.rng.sample(others, max(0, min(room, len(others)))):
            peer.connect(other)

    @property
    def stayers(self) -> list[SimulatedPeer]:
        """Downloaders that did not leave."""
        return [peer for peer in self.peers if not peer.is_seed and not peer.is_gone]

    @property
    def downloaders(self) -> list[SimulatedPeer]:
        return [peer for peer in self.peers if not peer.is_seed]

    def run(self) -> None:
        """Until all are done that download and did not leave."""
        self.connect()
        self._sample(self.fluid_bound_s() / SAMPLES_PER_BOUND)
        with _without_garbage_collector():
            self.engine.run(TIME_S_MAX)
        for peer in self.stayers:
            assert peer.completed_at is not None, f"{peer.name} never completed"
            self.checkers.check_end(peer)

    def is_spread(self) -> bool:
        """Whether the downloaders together hold everything."""
        return all(
            reduce(or_, (peer.held[page] for peer in self.downloaders)).bit_count() == len(lengths)
            for page, lengths in self.content.pages.items()
        )

    def _on_downloaded(self, peer: SimulatedPeer) -> None:
        self.checkers.check_download(peer)
        if peer.completed_at is not None and self._is_over():
            self.engine.stop()

    def _is_over(self) -> bool:
        return not self.awaited_count and not self._unfinished()

    def _unfinished(self) -> list[SimulatedPeer]:
        """One peer that is not done, or none; the same one as long as it is not."""
        watched = self._watched
        if watched is not None and watched.completed_at is None and not watched.is_gone:
            return [watched]
        self._watched = next((p for p in self.stayers if p.completed_at is None), None)
        return [] if self._watched is None else [self._watched]

    def _sample(self, interval_s: float) -> None:
        """Remember how far everybody is, now and at every interval to come."""
        sent_bytes = sum(peer.link.sent_bytes for peer in self.peers)
        room = sum(peer.link.up_bytes_per_s for peer in self.peers if not peer.is_gone)
        shares = sorted(peer.held_bytes / self.content.size_bytes for peer in self.stayers)
        self.samples.append(
            Sample(
                self.engine.now,
                (sent_bytes - self._sent_bytes) / (room * interval_s) if self.engine.now else 0.0,
                shares[0], shares[len(shares) // 2], shares[-1],
            )
        )  # fmt: skip
        self._sent_bytes = sent_bytes
        self.engine.after(interval_s, self._sample, interval_s)

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
        down = min(peer.link.down_bytes_per_s for peer in self.stayers)
        return max(size / seeds, size / down, len(self.stayers) * size / everybody)


def cold_start(world: World) -> None:
    """One seed, one peer: the link alone is the bound."""
    _add_seeds(world)
    world.add("peer-0")


def flash_crowd(world: World) -> None:
    """All peers come at once to the seeds of a new release."""
    _add_seeds(world)
    for number in range(world.setting.peers_count):
        world.add(f"peer-{number}")


def liars(world: World) -> None:
    """A flash crowd with a seed that sends only wrong bytes."""
    world.add("liar", is_seed=True, conduct=Conduct.LIAR)
    flash_crowd(world)


def silent_seed(world: World) -> None:
    """A flash crowd with a seed that takes requests and never answers."""
    world.add("silent", is_seed=True, conduct=Conduct.SILENT)
    flash_crowd(world)


def slow_seed(world: World) -> None:
    """A flash crowd whose seeds have a tenth of a peer's uplink: theirs is the bound."""
    flash_crowd(world)
    for peer in world.peers:
        if peer.is_seed:
            peer.link.up_bytes_per_s /= SLOW_SEED


def free_riders(world: World) -> None:
    """A flash crowd in which one peer of eight gives nothing."""
    _add_seeds(world)
    for number in range(world.setting.peers_count):
        conduct = Conduct.HONEST if number % FREE_RIDERS_ONE_OF else Conduct.FREE_RIDER
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
    """A flash crowd whose seeds are gone for good as soon as the peers have all of it between them:
    what is lost then is lost for all.
    """
    _add_seeds(world)
    for number in range(world.setting.peers_count):
        world.add(f"peer-{number}")
    seeds = [peer for peer in world.peers if peer.is_seed]

    def look() -> None:
        if not world.is_spread():
            world.engine.after(LOOK_S, look)
            return
        for seed in seeds:
            seed.leave()

    look()


def churn(world: World) -> None:
    """A flash crowd in which a fifth of the peers leave half way, and as many others come."""
    flash_crowd(world)
    leave_s = world.fluid_bound_s() / 2
    leavers = world.rng.sample(world.stayers, len(world.stayers) // CHURN_ONE_OF)
    for number, peer in enumerate(leavers):
        at = leave_s * (0.5 + world.rng.random())
        world.engine.at(at, peer.leave)
        world.awaited_count += 1
        world.engine.at(at, world.add_awaited, f"late-{number}")


def partition(world: World) -> None:
    """A flash crowd of which half is cut off from the rest, seeds included, for half the time the
    bound gives; then the halves meet again.
    """
    flash_crowd(world)
    near = [peer for peer in world.peers if peer.is_seed] + world.stayers[::2]
    far = world.stayers[1::2]
    bound_s = world.fluid_bound_s()
    world.engine.at(bound_s / 4, _cut, near, far)
    world.engine.at(bound_s * 3 / 4, _heal, world, near, far)


def _cut(near: list[SimulatedPeer], far: list[SimulatedPeer]) -> None:
    for one in near:
        for other in far:
            one.part(other)


def _heal(world: World, near: list[SimulatedPeer], far: list[SimulatedPeer]) -> None:
    for one in near:
        for other in world.rng.sample(far, min(len(far), NEIGHBOURS_MAX // 2)):
            one.connect(other)


SCENARIOS: dict[str, Callable[[World], None]] = {
    build.__name__: build
    for build in (
        cold_start, flash_crowd, churn, late_comers, slow_seed, free_riders, liars, silent_seed,
        seeds_die, partition,
    )
}  # fmt: skip


def simulate(scenario: str, setting: Setting) -> Report:
    """Run one scenario to its end. Raises AssertionError with the rule that was broken."""
    return report_of(scenario, played(scenario, setting))


def played(scenario: str, setting: Setting) -> World:
    """The world of a scenario, at its end."""
    world = World(setting)
    SCENARIOS[scenario](world)
    world.run()
    return world


def report_of(scenario: str, world: World) -> Report:
    """What came out."""
    setting = world.setting
    times = sorted(peer.completed_at or 0.0 for peer in world.stayers)
    statistics = [peer.download.statistics(world.engine.now) for peer in world.downloaders]
    received = sum(peer.link.received_bytes for peer in world.downloaders)
    needed = sum(peer.held_bytes for peer in world.downloaders)
    bound_s = world.fluid_bound_s()
    p99_s = times[max(0, math.ceil(len(times) * 0.99) - 1)]
    seeds = [peer for peer in world.peers if peer.is_seed and peer.conduct is Conduct.HONEST]
    return Report(
        scenario=scenario,
        peers_count=setting.peers_count,
        seed=setting.seed,
        trace=world.engine.trace,
        completed_count=len(times),
        last_s=times[-1],
        p99_s=p99_s,
        median_s=times[len(times) // 2],
        bound_s=bound_s,
        ratio=times[-1] / bound_s,
        p99_ratio=p99_s / bound_s,
        seed_copies=sum(peer.link.sent_bytes for peer in seeds) / world.content.size_bytes,
        duplicate_share=max(0, received - needed) / received,
        liars_dropped_count=sum(len(snapshot.liars) for snapshot in statistics),
        events_count=world.engine.events_count,
        steps_count=world.checkers.steps_count,
    )


@contextmanager
def _without_garbage_collector() -> Iterator[None]:
    """Millions of objects that live to the end are not walked again and again: nothing here is
    garbage that counting does not free.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _add_seeds(world: World) -> None:
    for number in range(world.setting.seeds_count):
        world.add(f"seed-{number}", is_seed=True)
