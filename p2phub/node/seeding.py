"""Super-seeding: carries out `Offers` for every release that is whole here and that several peers
download at once.

A machine is made when a second peer joins a swarm, from pages that are read in a worker thread;
then the peers are asked what they hold, and their answers feed it. It ends when it has nothing more
to offer, or when fewer than two peers are left.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

import trio

from p2phub.core.swarm.actions import SendOffer
from p2phub.core.swarm.offers import Offers
from p2phub.digest import Digest
from p2phub.errors import P2phubError
from p2phub.node.trees import held_tree, page_lengths
from p2phub.proto.limits import PAGES_PER_ASK_MAX
from p2phub.proto.messages import Ask, Message, Offer, Run
from p2phub.store.base import ObjectState, Store

SEEDS_MAX = 64  # releases that are super-seeded at once: each knows all pages of its release
PAGES_MAX = 4096  # of a release: some 30 million chunks; larger ones are served without offers
SWARMS_PER_SESSION_MAX = 4  # that a session gets offers for, of all it joins: a download joins one
RETRY_S = 30.0  # before a release that was not whole is looked at again

Say = Callable[[str, Message], None]  # to the session of this key
Withhold = Callable[[frozenset[str]], None]  # these sessions shall have no slot


@dataclass(slots=True)
class _Swarm:
    """The sessions that joined one manifest's swarm, and its machine once it runs."""

    manifest: Digest
    sessions: dict[str, None] = field(default_factory=dict)  # keys, in order of joining
    machine: Offers | None = None
    pages: tuple[Digest, ...] = ()
    is_loading: bool = False
    not_before_s: float = 0.0


class Seeding:
    """The offers of one node. me: its peer id. `run` must run."""

    def __init__(
        self,
        store: Store,
        me: str,
        say: Say,
        withhold: Withhold,
        served_max: Callable[[], int],
        watched: Callable[[str], Iterable[Digest]],
        requested: Callable[[str], Iterable[Run]],
    ) -> None:
        self._store = store
        self._watched = watched  # the pages that a session asked about
        self._requested = requested  # what a session waits for
        self._served_max = served_max  # how many peers are served at once
        self._withhold = withhold
        self._me = me
        self._say = say
        self._swarms: dict[Digest, _Swarm] = {}
        self._joined: dict[str, list[_Swarm]] = {}  # by session, at most SWARMS_PER_SESSION_MAX
        self._loaded_count = 0  # of them, with a machine
        self._loads = trio.CapacityLimiter(1)  # whoever joins swarms decides how many are wanted
        self._changed = trio.Event()

    async def run(self) -> None:
        """Load machines and send offers, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                now = trio.current_time()
                due = inf
                self._loaded_count = sum(s.machine is not None for s in self._swarms.values())
                for swarm in self._swarms.values():
                    due = min(due, self._serve(swarm, now, nursery))
                machines = (swarm.machine for swarm in self._swarms.values())
                self._withhold(frozenset().union(*(m.withheld for m in machines if m is not None)))
                with trio.move_on_at(due):
                    await self._changed.wait()

    # ---- told by the sessions --------------------------------------------------------------------

    def on_join(self, key: str, manifest: Digest) -> None:
        joined = self._joined.setdefault(key, [])
        if len(joined) >= SWARMS_PER_SESSION_MAX:
            return
        swarm = self._swarms.setdefault(manifest, _Swarm(manifest))
        joined.append(swarm)
        swarm.sessions[key] = None
        self._greet(swarm, key)
        self._changed.set()

    def on_seeds(self, key: str, manifest: Digest, peers: Sequence[str]) -> None:
        """A session named other seeds of a swarm that it joined."""
        swarm = self._swarms.get(manifest)
        if swarm is not None and key in swarm.sessions and swarm.machine is not None:
            swarm.machine.on_seeds(key, peers)

    def on_gone(self, key: str) -> None:
        for swarm in self._joined.pop(key, ()):
            del swarm.sessions[key]
            if swarm.machine is not None:
                swarm.machine.on_peer_gone(key, trio.current_time())
            if not swarm.sessions:
                del self._swarms[swarm.manifest]
        self._changed.set()

    def on_ask(self, key: str, pages: Sequence[Digest]) -> None:
        for machine in self._machines_of(key):
            machine.on_ask(key, pages)
        self._changed.set()

    def on_have(self, key: str, page: Digest, bits: bytes) -> None:
        for machine in self._machines_of(key):
            machine.on_have(key, page, bits, trio.current_time())
        self._changed.set()

    def on_have_delta(self, key: str, page: Digest, indexes: tuple[int, ...]) -> None:
        for machine in self._machines_of(key):
            machine.on_have_delta(key, page, indexes, trio.current_time())
        self._changed.set()

    def on_request(self, key: str, runs: Iterable[Run]) -> None:
        for machine in self._machines_of(key):
            machine.on_request(key, runs, trio.current_time())

    def on_sent(self, key: str, size_bytes: int) -> None:
        for machine in self._machines_of(key):
            machine.on_sent(key, size_bytes, trio.current_time())

    # ---- machines --------------------------------------------------------------------------------

    def _machines_of(self, key: str) -> list[Offers]:
        joined = self._joined.get(key, ())
        return [swarm.machine for swarm in joined if swarm.machine is not None]

    def _serve(self, swarm: _Swarm, now: float, nursery: trio.Nursery) -> float:
        """One look at a swarm; when to look again."""
        if swarm.machine is None:
            is_room = self._loaded_count < SEEDS_MAX
            if len(swarm.sessions) >= 2 and not swarm.is_loading and is_room:
                if now < swarm.not_before_s:
                    return swarm.not_before_s
                swarm.is_loading = True
                nursery.start_soon(self._load, swarm)
            return now + 60.0
        for action in swarm.machine.next_actions(now, self._served_max()):
            assert isinstance(action, SendOffer)
            self._say(action.peer, Offer(action.run))
        due = swarm.machine.next_deadline()
        return due if due is not None else now + 60.0

    async def _load(self, swarm: _Swarm) -> None:
        try:
            pages = await trio.to_thread.run_sync(
                self._whole_pages, swarm.manifest, limiter=self._loads
            )
        except P2phubError:
            pages = []
        swarm.is_loading = False
        if not pages:
            swarm.not_before_s = trio.current_time() + RETRY_S
            return
        machine = Offers(self._me, sum(sum(lengths) for _, lengths in pages))
        for page, lengths in pages:
            machine.on_page(page, lengths)
        machine.on_pages_complete()
        swarm.machine = machine
        swarm.pages = tuple(page for page, _ in pages)
        for key in swarm.sessions:
            self._greet(swarm, key)
        self._changed.set()

    def _greet(self, swarm: _Swarm, key: str) -> None:
        """Tell the machine of a session, and ask the session what it holds."""
        if swarm.machine is None:
            return
        swarm.machine.on_peer(key, trio.current_time())
        swarm.machine.on_ask(key, self._watched(key))
        swarm.machine.on_request(key, self._requested(key), trio.current_time())
        for start in range(0, len(swarm.pages), PAGES_PER_ASK_MAX):
            self._say(key, Ask(swarm.pages[start : start + PAGES_PER_ASK_MAX]))

    def _whole_pages(self, manifest: Digest) -> list[tuple[Digest, array[int]]]:
        """The pages of a release that is complete here, in order; nothing if it is not."""
        tree = held_tree(self._store, manifest)
        for file in tree.files:
            status = self._store.status(file.object) if file.size else None
            if file.size and (status is None or status.state is not ObjectState.COMPLETE):
                return []
        pages = []
        for page in page_lengths(self._store, tree, tree.files):
            pages.append(page)
            if len(pages) > PAGES_MAX:
                return []
        return pages
