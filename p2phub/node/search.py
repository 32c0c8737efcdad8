"""A search for peers that may hold something: everyone named, everyone connected, everyone the DHT
tells of.

A peer found is a hint until it has delivered one verified chunk. The search goes on as long as its
`run` does, in rounds with growing pauses, because providers come and go; whoever needs peers waits
on it. While verified chunks come in there is a round every ROUND_PAUSE_MAX_S only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from p2phub.errors import NoProvider, P2phubError
from p2phub.net.base import Network, PeerAddress, PeerId
from p2phub.node.tasks import open_tasks

ROUND_PAUSE_S, ROUND_PAUSE_MAX_S = 1.0, 30.0  # between rounds of the same search: doubled each time
CANDIDATES_MAX = 256  # peers one search ever dials: hints are free to make
DIALS_AT_ONCE = 16
HINTS_MAX = 64  # that one round follows: a liar's must leave room for providers and named peers
KEY_STAGGER_S = 0.6  # between lookups of the keys of one name: longer than a good lookup takes
ENOUGH_COUNT = 8  # reachable providers of the keys so far, after which no further one is looked up
# After a verified chunk from anybody: what a further lookup could bring is not missed, and its
# questions would cost the whole network more than the chunk did.
FED_S = 3.0
MUTUAL_S, MUTUAL_LOOK_S = 1.0, 0.05  # for a peer that was told of us, too, to dial us


class Search:
    """Peers for some keys. `found` grows while `run` runs; `exclude` takes a peer out for good."""

    def __init__(
        self, network: Network, *, keys: Sequence[bytes], named: Iterable[PeerAddress] = ()
    ) -> None:
        self._network = network
        self._keys = keys
        self._named = list(named)
        self._dials = trio.CapacityLimiter(DIALS_AT_ONCE)
        self._hint_dials = trio.CapacityLimiter(DIALS_AT_ONCE)
        self._hints_count = 0  # followed in this round
        self._seen: set[PeerId] = {network.peer_id}
        self._excluded: set[PeerId] = {network.peer_id}
        self._changed = trio.Event()
        self._failures: list[str] = []
        self._providers: set[PeerId] = set()  # connected, and named by the DHT
        self._started_s = trio.current_time()
        self.found: list[PeerId] = []
        self.asked_count = 0  # DHT nodes that answered so far
        self.rounds_count = 0
        self._is_resting = False
        self._fed_s = float("-inf")
        self.is_surveyed = False  # named peers were dialled, and whom the first key brought

    async def run(self) -> None:
        """Search until cancelled."""
        pause_s = ROUND_PAUSE_S
        while True:
            self.add_connected()
            async with open_tasks() as nursery:
                for number, key in enumerate(self._keys[1:], 1):
                    nursery.start_soon(self._look_up, key, number * KEY_STAGGER_S)
                async with open_tasks() as survey:
                    for address in self._named:
                        survey.start_soon(self._try, address, self._dials)
                    for key in self._keys[:1]:
                        survey.start_soon(self._look_up, key, 0.0)
                self.is_surveyed = True
                self._notify()
            self.rounds_count += 1
            self._notify()
            await trio.sleep(pause_s)
            fed_until_s = trio.current_time() + ROUND_PAUSE_MAX_S - pause_s
            while self._is_resting:
                await self._changed.wait()
            while self._is_fed and trio.current_time() < fed_until_s:
                with trio.move_on_after(FED_S):
                    await self._changed.wait()
            pause_s = min(2 * pause_s, ROUND_PAUSE_MAX_S)
            self._seen.intersection_update({*self.found, *self._excluded})  # dead ones may be back
            self._hints_count = 0

    def on_fed(self) -> None:
        """A verified chunk came from somebody found: nothing else is urgent for FED_S."""
        self._fed_s = trio.current_time()

    @property
    def _is_fed(self) -> bool:
        return trio.current_time() < self._fed_s + FED_S

    def rest(self) -> None:
        """Begin no further round before `resume`."""
        self._is_resting = True

    def resume(self) -> None:
        self._is_resting = False
        self._notify()

    def add_connected(self) -> None:
        """Take in every peer that is connected now."""
        for status in self._network.peers():
            self._add(status.peer)

    async def offer(self, address: PeerAddress) -> None:
        """A hint from peer exchange: dialled once, as far as a round follows hints.

        The other was told of us at the same time, so one of the two waits: two handshakes at once
        would make two connections.
        """
        if address.peer in self._seen or self._hints_count >= HINTS_MAX:
            return
        self._hints_count += 1
        if self._network.peer_id > address.peer:
            await self._be_dialled(address.peer)
        await self._try(address, self._hint_dials)

    async def _be_dialled(self, peer: PeerId) -> None:
        """Until a peer is connected, for MUTUAL_S at most."""
        until_s = trio.current_time() + MUTUAL_S
        while trio.current_time() < until_s:
            if any(status.peer == peer for status in self._network.peers()):
                return
            await trio.sleep(MUTUAL_LOOK_S)

    def exclude(self, peer: PeerId) -> None:
        """Never give this peer again: it lied."""
        self._excluded.add(peer)
        self._seen.add(peer)
        if peer in self.found:
            self.found.remove(peer)

    async def wait_more(self, known_count: int) -> None:
        """Until more than `known_count` peers were found, or a round ended."""
        rounds = self.rounds_count
        while len(self.found) <= known_count and self.rounds_count == rounds:
            await self._changed.wait()

    async def wait_round(self) -> None:
        """Until the round that is under way has ended."""
        rounds = self.rounds_count
        while self.rounds_count == rounds:
            await self._changed.wait()

    def report(self, what: str) -> NoProvider:
        """The error for a search that found nothing: who was asked, and for how long."""
        seconds = trio.current_time() - self._started_s
        tried = f"; could not reach: {'; '.join(self._failures[:5])}" if self._failures else ""
        nodes_count = max(0, self.asked_count - 1)  # but this one, which a lookup asks first
        if self.found or nodes_count:
            peers = "1 peer" if len(self.found) == 1 else f"{len(self.found)} peers"
            nodes = "1 node" if nodes_count == 1 else f"{nodes_count} nodes"
            asked = f"asked {peers} and {nodes} of the network for {seconds:.0f} s"
        else:
            asked = f"this node knows no other that answers; looked for {seconds:.0f} s"
        return NoProvider(
            f"no peer holds {what}: {asked}{tried}",
            peers_asked=[str(peer) for peer in self.found[:32]],
            nodes_asked=nodes_count,
            seconds=round(seconds, 1),
        )

    async def _look_up(self, key: bytes, delay_s: float) -> None:
        # One key is enough where nobody squats: the others cost the network a lookup each. Peers
        # that happen to be connected do not count: what is wanted may be with none of them.
        await trio.sleep(delay_s)
        is_further = delay_s > 0
        if len(self._providers) >= ENOUGH_COUNT or (is_further and self._is_fed):
            return
        try:
            async with open_tasks() as dials, self._network.find(key) as lookup:
                async for provider in lookup:
                    self.asked_count = max(self.asked_count, lookup.asked_count)
                    dials.start_soon(self._try_provider, provider)
                self.asked_count = max(self.asked_count, lookup.asked_count)
        except P2phubError as error:
            self._fail(str(error))

    async def _try_provider(self, address: PeerAddress) -> None:
        await self._try(address, self._dials)
        if address.peer in self.found:
            self._providers.add(address.peer)

    async def _try(self, address: PeerAddress, dials: trio.CapacityLimiter) -> None:
        if address.peer in self._seen or len(self._seen) > CANDIDATES_MAX:
            return
        self._seen.add(address.peer)
        async with dials:
            try:
                await self._network.connect(address)
            except P2phubError as error:
                self._fail(str(error))
                return
        self._seen.discard(address.peer)
        self._add(address.peer)

    def _add(self, peer: PeerId) -> None:
        if peer not in self._seen and len(self.found) < CANDIDATES_MAX:
            self._seen.add(peer)
            self.found.append(peer)
            self._notify()

    def _fail(self, reason: str) -> None:
        if len(self._failures) < 16 and reason not in self._failures:
            self._failures.append(reason)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
