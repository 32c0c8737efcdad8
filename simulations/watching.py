"""Who watches the pages of a simulated peer, and what they hear: the twin of p2phub.node.watching.

What is new is told at once and then not again for DELTA_PERIOD_S, and no downloader is told of what
it said to hold itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from p2phub.digest import Digest
from simulations.engine import Engine
from simulations.links import Link

if TYPE_CHECKING:
    from simulations.peer import SimulatedPeer

DELTA_PERIOD_S = 0.1  # between two words on what is new

Delta: TypeAlias = tuple[str, Digest, Sequence[int]]  # who holds more entries of which page


class Watching:
    """Those who watch one peer."""

    def __init__(
        self, name: str, engine: Engine, link: Link, pages: Mapping[Digest, Sequence[int]]
    ) -> None:
        self._name = name
        self._engine = engine
        self._link = link
        # What its deltas said, 1 for each entry: all who watch know of it, and tell it nothing of
        # that. A seed sends none.
        self._announced = {page: bytearray(len(lengths)) for page, lengths in pages.items()}
        # Who asked for a page, and what they announced of it.
        self._watchers: dict[Digest, dict[str, tuple[SimulatedPeer, bytearray]]] = {
            page: {} for page in pages
        }
        self._gained: dict[Digest, list[int]] = {}  # since the last delta
        self._told_at = float("-inf")  # the last delta
        self.deltas_count = 0  # sent: each to all who watch
        self.told_count = 0  # chunks in them, for each who was told

    def on_ask(self, asker: SimulatedPeer, pages: Iterable[Digest]) -> None:
        """A neighbour watches these pages from now on."""
        for page in pages:
            self._watchers[page][asker.name] = (asker, asker.watching._announced[page])

    def forget(self, name: str) -> None:
        """A neighbour watches nothing any more."""
        for watchers in self._watchers.values():
            watchers.pop(name, None)

    def on_held(self, page: Digest, entry: int) -> None:
        """The peer holds one chunk more."""
        if not self._gained:
            self._engine.at(self._told_at + DELTA_PERIOD_S, self._send)
        self._gained.setdefault(page, []).append(entry)

    def _send(self) -> None:
        """Tell every watcher what it may lack: nobody is told of what it said to hold itself.

        All links have one delay, so one event delivers them all.
        """
        gained, self._gained = self._gained, {}
        self._told_at = self._engine.now
        self.deltas_count += 1
        told: list[tuple[Delta, list[SimulatedPeer]]] = []
        for page, entries in gained.items():
            watchers = self._watchers[page].values()
            if len(entries) == 1:
                entry = entries[0]
                hearers = [other for other, announced in watchers if not announced[entry]]
                told.append(((self._name, page, entries), hearers))
                continue
            for other, announced in watchers:
                lacking = [entry for entry in entries if not announced[entry]]
                if lacking:
                    told.append(((self._name, page, lacking), [other]))
        self._engine.after(self._link.delay_s, self._deliver, told, gained)

    def _deliver(
        self,
        told: list[tuple[Delta, list[SimulatedPeer]]],
        gained: dict[Digest, list[int]],
    ) -> None:
        for page, entries in gained.items():
            announced = self._announced[page]
            for entry in entries:
                announced[entry] = 1
        name = self._name
        for delta, hearers in told:
            self.told_count += len(delta[2]) * len(hearers)
            for other in hearers:
                if other.offers is None and name not in other.givers:
                    # News of those who give no slot make no difference until the machine is asked
                    # what to do: they wait, since many at once cost less.
                    other.news.append(delta)
                else:
                    other.on_have_delta(delta)
