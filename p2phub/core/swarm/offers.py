"""Super-seeding by offers: each span leaves the seeds once before any leaves twice.

A machine over `now`.

While a swarm is young the seeds' uplinks are its bound, and whatever a seed sends twice is lost. So
each seed offers every peer a few spans that nobody else has, other ones to each peer; peers take
what is offered first and pass it on. Several seeds share the spans by rendezvous hashing, without a
word between them. A span is offered again only if nobody announced it within a deadline; when every
span has a holder who is no seed, offering is over. With fewer than two downloading peers nothing is
offered: there is nobody to pass it on to.
Source: BitTorrent BEP 16; Thaler and Ravishankar 1998 (rendezvous hashing).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import Peer, SendOffer
from p2phub.core.swarm.availability import Availability, Holdings
from p2phub.core.swarm.rates import RateMeter
from p2phub.core.swarm.spans import SpanPlanner
from p2phub.digest import Digest, digest
from p2phub.proto.messages import Run

OFFERS_AHEAD = 4  # spans a peer has to take: enough for a round trip and an announcement
OFFERS_AHEAD_S = 1.0  # and what a fast peer takes in this time
OFFERS_PER_PEER_MAX = 64
OFFER_DEADLINE_S = 20.0  # until a peer must have announced a span it was offered
SENT_WINDOW_S = 2.0
SEEDS_MAX = 16  # that share the spans; further ones are taken for peers with nothing to do


class _Peer:
    __slots__ = ("has_slot", "holdings", "is_late", "is_seed", "offered", "sent", "told")

    def __init__(self, holdings: Holdings, now: float) -> None:
        self.holdings = holdings
        self.is_seed: bool | None = None  # None: it said nothing yet
        self.has_slot = False
        self.is_late = False  # it let a deadline pass: one span at a time until it announces one
        self.offered: dict[int, float] = {}  # span -> deadline; taken out when announced or over
        self.told: set[int] = set()  # pages it answered about
        self.sent = RateMeter(now, SENT_WINDOW_S)


class Offers:
    """The offers of this seed in the swarm of one release. me: this node's own peer id."""

    def __init__(self, me: Peer, size_bytes: int) -> None:
        self._me = me
        self._planner = SpanPlanner(size_bytes)
        self._availability = Availability(self._planner)  # of peers that are no seeds
        self._peers: dict[Peer, _Peer] = {}
        self._pending: dict[int, Peer] = {}  # span -> who is to announce it
        self._mine = 0  # sets of spans whose turn is known
        self._others = 0
        self._sizes = array("I")  # bytes per span

    # ---- what is seeded ------------------------------------------------------------------------

    def on_page(self, page: Digest, lengths: Sequence[int]) -> None:
        """A page of the release, in manifest order; 0 for entries that are no data."""
        if self._planner.number_of(page) is None:
            self._on_spans(self._planner.add(page, lengths, 0))

    def on_pages_complete(self) -> None:
        self._on_spans(self._planner.close_tail())
        self._planner.is_closed = True

    def _on_spans(self, spans: list[int]) -> None:
        self._sizes.extend(self._planner.span(span).size_bytes for span in spans)
        self._availability.judge_spans(spans)

    # ---- peers ---------------------------------------------------------------------------------

    def on_peer(self, peer: Peer, now: float) -> None:
        """A peer joined the swarm: it downloads, or seeds as we do; its first haves will tell."""
        if peer not in self._peers and peer != self._me:
            self._peers[peer] = _Peer(self._availability.join(), now)

    def on_peer_gone(self, peer: Peer, now: float) -> None:
        """A peer left: what only it had is offered anew."""
        gone = self._peers.pop(peer, None)
        if gone is None:
            return
        self._availability.leave(gone.holdings)
        for span in gone.offered:
            self._pending.pop(span, None)
        if gone.is_seed:
            self._mine = self._others = 0

    def on_slot(self, peer: Peer, has_slot: bool) -> None:
        """A peer got an upload slot of ours, or lost it; without one it could not take what it is
        offered.
        """
        state = self._peers.get(peer)
        if state is None:
            return
        state.has_slot = has_slot
        if not has_slot:
            for span in state.offered:
                self._pending.pop(span, None)
            state.offered.clear()

    def on_have(self, peer: Peer, page: Digest, bits: bytes, now: float) -> None:
        """What a peer holds of a page.

        One whose first word on every page is "all of it" is a seed.
        """
        state, number = self._peers.get(peer), self._planner.number_of(page)
        if state is None or number is None:
            return
        entries = bitsets.from_wire(bits)
        wanted = self._planner.pages[number].missing
        is_first = number not in state.told
        state.told.add(number)
        if wanted and is_first and state.is_seed is not False:
            self._judge_seed(state, entries & wanted == wanted)
        if state.is_seed:
            return  # what seeds hold doesn't count, and deltas of it don't come
        self._on_announced(state, self._availability.set_page(state.holdings, number, entries))

    def on_have_delta(self, peer: Peer, page: Digest, entries: Sequence[int], now: float) -> None:
        """A peer holds more of a page."""
        state, number = self._peers.get(peer), self._planner.number_of(page)
        if state is None or number is None or state.is_seed:
            return
        gained = self._availability.add_entries(state.holdings, number, entries)
        self._on_announced(state, gained)

    def on_sent(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Payload of this release went out to a peer: fast ones are offered more ahead."""
        if peer in self._peers:
            self._peers[peer].sent.add(size_bytes, now)

    def _judge_seed(self, state: _Peer, is_seed: bool) -> None:
        if is_seed and sum(bool(other.is_seed) for other in self._peers.values()) >= SEEDS_MAX:
            is_seed = False
        if bool(state.is_seed) != is_seed:
            self._mine = self._others = 0  # the seeds' shares change
        state.is_seed = is_seed

    def _on_announced(self, state: _Peer, spans: int) -> None:
        """Spans that a peer holds whole since now: they need no offer any more."""
        for span in bitsets.iterate(spans):
            owner = self._pending.pop(span, None)
            if owner is not None and owner in self._peers:
                self._peers[owner].offered.pop(span, None)
                self._peers[owner].is_late = False

    # ---- what to do ----------------------------------------------------------------------------

    def next_actions(self, now: float) -> list[SendOffer]:
        """The offers to send now, a run each."""
        self._end_late(now)
        takers = [(peer, state) for peer, state in self._peers.items() if state.is_seed is False]
        if len(takers) < 2:
            return []
        left = ~self._availability.rarity.held() & bitsets.interval(0, len(self._planner))
        left &= ~bitsets.from_members(self._pending)
        if not left:
            return []
        actions: list[SendOffer] = []
        takers.sort(key=lambda row: len(row[1].offered))
        for peer, state in takers:
            if not state.has_slot:
                continue
            room = self._room(state, now)
            while room > 0 and left:
                span = self._next_span(left)
                left &= ~(1 << span)
                room -= self._sizes[span]
                if len(state.offered) >= OFFERS_PER_PEER_MAX:
                    break
                state.offered[span] = now + OFFER_DEADLINE_S
                self._pending[span] = peer
                actions.extend(SendOffer(peer, run) for run in self._planner.span(span).runs)
        return actions

    def next_deadline(self) -> float | None:
        """When an offer is late; None: none is out."""
        deadlines = (min(state.offered.values(), default=None) for state in self._peers.values())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    @property
    def is_over(self) -> bool:
        """Every span has a holder who is no seed: nothing more to offer."""
        count = len(self._planner)
        held = self._availability.rarity.held()
        return self._planner.is_closed and held == bitsets.interval(0, count)

    @property
    def spread_count(self) -> int:
        """Spans that somebody who is no seed holds."""
        return self._availability.rarity.held().bit_count()

    def _end_late(self, now: float) -> None:
        for state in self._peers.values():
            for span in [span for span, deadline in state.offered.items() if deadline <= now]:
                del state.offered[span]
                self._pending.pop(span, None)
                state.is_late = True

    def _room(self, state: _Peer, now: float) -> int:
        """How many bytes more a peer shall be offered."""
        out_bytes = sum(self._sizes[span] for span in state.offered)
        if state.is_late:
            return 0 if state.offered else 1
        mean_bytes = self._planner.total_bytes // max(1, len(self._planner))
        wanted_bytes = max(OFFERS_AHEAD * mean_bytes, int(state.sent.rate(now) * OFFERS_AHEAD_S))
        return wanted_bytes - out_bytes

    def _next_span(self, left: int) -> int:
        """The first of our own share; when that is out, the last of the others'."""
        while True:
            candidates = left & self._mine
            if candidates:
                return bitsets.lowest(candidates)
            unknown = left & ~self._mine & ~self._others
            if not unknown:
                return left.bit_length() - 1
            for span in _first(unknown, 64):
                if self._is_mine(span):
                    self._mine |= 1 << span
                else:
                    self._others |= 1 << span

    def _is_mine(self, span: int) -> bool:
        """Whether rendezvous hashing gives a span to this seed."""
        run: Run = self._planner.span(span).runs[0]
        place = run.page + run.start.to_bytes(4, "big")
        own = _weight(self._me, place)
        return all(
            _weight(peer, place) < own for peer, state in self._peers.items() if state.is_seed
        )


def _weight(seed: Peer, place: bytes) -> bytes:
    return digest(place + seed.encode())


def _first(members: int, count: int) -> list[int]:
    """Up to `count` of the smallest members."""
    found: list[int] = []
    while members and len(found) < count:
        member = bitsets.lowest(members)
        found.append(member)
        members ^= 1 << member
    return found
