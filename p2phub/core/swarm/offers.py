"""Super-seeding by offers: each span leaves the seeds once before any leaves twice.

A machine over `now`.

While a swarm is young the seeds' uplinks are its bound, and whatever a seed sends twice is lost. So
each seed offers every peer a few spans that nobody else has, other ones to each peer; peers take
what is offered first and pass it on. Several seeds share the spans by rendezvous hashing, without a
word between them. A span is offered again only if nobody announced it within a deadline, and to
others; when every span has a holder who is no seed, offering is over. A peer is offered only what
it wants, as its questions show, and only what another wants too: the rest there is nobody to pass
on to, and whoever wants it requests it.

The swarm is as fast as what is passed on, so the next span goes to whoever has least left to pass
on: a peer with a fast downlink does not get more than its uplink is good for. Who passes nothing on
where others do (it gives no slots, or nobody reaches it) is offered nothing until it does; what
only it has is offered anew, and for a while it gets no upload slot.

As long as a peer could be offered more, slots are for those who have offers, and as few of these at
once as are served at once: a span is soon whole, and then there are two who pass it on.
Source: BitTorrent BEP 16; Thaler and Ravishankar 1998 (rendezvous hashing).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import Peer, SendOffer
from p2phub.core.swarm.availability import Availability, Holdings, Rarity
from p2phub.core.swarm.rates import RateMeter
from p2phub.core.swarm.spans import SpanPlanner
from p2phub.digest import Digest, digest
from p2phub.proto.messages import Run

OFFERS_AHEAD = 2  # spans a peer has to take at first: one is sent while the next waits
OFFERS_AHEAD_S = 1.0  # and from then on what it takes in this time: round trip and announcement
OFFERS_PER_PEER_MAX = 64
REQUESTED_AHEAD = 2 * OFFERS_AHEAD  # spans that a peer requests before its first offers come
OFFER_DEADLINE_S = 20.0  # until a peer must have announced a span it was offered, at most
OFFER_DEADLINE_S_MIN = 2.0
OFFER_GAIN = 4.0  # who takes so many times longer than others is late
SENT_WINDOW_S = 2.0
CARRIED_SPANS_MAX = 4  # more to pass on than the least burdened peer has: then others come first
RELAY_GAIN = 4.0  # a peer that takes so many times longer to pass something on keeps it
RELAY_S_MIN = 1.0
WITHHELD_S_MAX = 20.0  # that a peer gets no slot: it may just be one that nobody else reaches
MEAN_WEIGHT = 0.1  # of the latest in the mean times that offers and relays take
SEEDS_MAX = 16  # that share the spans; further ones are taken for peers with nothing to do


class _Peer:
    __slots__ = (
        "asked", "carried", "copies_left", "expired", "holdings", "is_late", "is_seed", "named",
        "offered", "relayed_at", "requested_count", "sent", "told", "unrelayed", "wanted",
        "withheld_since",
    )  # fmt: skip

    def __init__(self, holdings: Holdings, now: float) -> None:
        self.holdings = holdings
        self.is_seed: bool | None = None  # None: it said nothing yet
        self.is_late = False  # it let a deadline pass: one span at a time until it announces one
        self.offered: dict[int, float] = {}  # span -> since when; until it is announced or late
        self.expired = 0  # set of spans that it was offered and did not take in time
        self.asked: set[int] = set()  # pages that it asked about
        self.wanted = 0  # set of spans of these, and of what it holds
        self.told: set[int] = set()  # pages it answered about
        self.named: set[Peer] = set()  # other seeds, as it says
        self.sent = RateMeter(now, SENT_WINDOW_S)
        self.carried: dict[int, int] = {}  # span it was first to hold -> peers that lack it still
        self.copies_left = 0  # the sum of these
        self.unrelayed: dict[int, float] = {}  # span nobody else holds -> since when
        self.requested_count = 0  # spans that count as offered because it requested them
        self.relayed_at = now  # last time that another peer held what it was first to hold
        self.withheld_since: float | None = None  # the first time that it kept what it got


class Offers:
    """The offers of this seed in the swarm of one release. me: this node's own peer id."""

    def __init__(self, me: Peer, size_bytes: int, span_bytes: int | None = None) -> None:
        self._me = me
        self._planner = SpanPlanner(size_bytes, span_bytes)
        self._availability = Availability(self._planner)  # of peers that are no seeds
        self._wanting = Rarity()  # of wanted spans
        self._peers: dict[Peer, _Peer] = {}
        self._pending: dict[int, Peer] = {}  # span -> who is to announce it
        self._mine = 0  # sets of spans whose turn is known
        self._others = 0
        self._sizes = array("I")  # bytes per span
        self._carriers: dict[int, Peer] = {}  # span -> its first holder
        self._take_s: float | None = None  # mean time from offer to first holder
        self._relay_s: float | None = None  # and from then until a second peer holds it
        self.withheld: frozenset[Peer] = frozenset()  # who shall have no slot, see `next_actions`

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
        self._wanting.remove(gone.wanted)
        for span in gone.offered:
            self._pending.pop(span, None)
        for span in gone.carried:
            del self._carriers[span]
        if gone.is_seed or gone.named:
            self._mine = self._others = 0
        self._count_copies()

    def on_seeds(self, peer: Peer, seeds: Sequence[Peer]) -> None:
        """A peer says who else makes it offers.

        That may be a lie, which costs little: only the order in which spans are offered depends on
        it.
        """
        state = self._peers.get(peer)
        if state is not None:
            state.named.update(seeds[: SEEDS_MAX - len(state.named)])
            self._mine = self._others = 0

    def on_ask(self, peer: Peer, pages: Iterable[Digest]) -> None:
        """A peer asked what we hold of pages: that is what it wants."""
        state = self._peers.get(peer)
        if state is None:
            return
        known = map(self._planner.number_of, pages)
        numbers = {number for number in known if number is not None} - state.asked
        state.asked |= numbers
        wanted = 0
        for number in numbers:
            spans = self._planner.spans_within(number, 0, self._planner.pages[number].entry_count)
            wanted |= bitsets.from_members(spans[1:-1])
            for span in {*spans[:1], *spans[-1:]}:  # which may reach into pages beside this one
                if all(piece in state.asked for piece, _ in self._planner.pieces(span)):
                    wanted |= 1 << span
        if self._want(state, wanted):
            self._count_copies()

    def _want(self, state: _Peer, spans: int) -> bool:
        """A peer wants these spans; whether that is news."""
        spans &= ~state.wanted
        state.wanted |= spans
        self._wanting.add(spans)
        return spans != 0

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
        gained = self._availability.set_page(state.holdings, number, entries)
        self._on_announced(peer, state, gained, now)

    def on_have_delta(self, peer: Peer, page: Digest, entries: Sequence[int], now: float) -> None:
        """A peer holds more of a page."""
        state, number = self._peers.get(peer), self._planner.number_of(page)
        if state is None or number is None or state.is_seed:
            return
        gained = self._availability.add_entries(state.holdings, number, entries)
        self._on_announced(peer, state, gained, now)

    def on_request(self, peer: Peer, runs: Iterable[Run], now: float) -> None:
        """A peer requested runs of us. The first that it was not offered, and nobody has yet, count
        as offered to it: it asked before its offers came, and others would be sent them, too.
        """
        state = self._peers.get(peer)
        if state is None or state.is_seed:
            return
        for run in runs:
            number = self._planner.number_of(run.page)
            if number is None:
                continue
            for span in self._planner.spans_within(number, run.start, run.stop):
                if state.requested_count >= REQUESTED_AHEAD:
                    return
                if span not in self._pending and not self._availability.rarity.count(span):
                    state.requested_count += 1
                    state.offered[span] = now
                    self._pending[span] = peer

    def on_sent(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Payload of this release went out to a peer: fast ones are offered more ahead."""
        if peer in self._peers:
            self._peers[peer].sent.add(size_bytes, now)

    def _judge_seed(self, state: _Peer, is_seed: bool) -> None:
        if is_seed and sum(bool(other.is_seed) for other in self._peers.values()) >= SEEDS_MAX:
            is_seed = False
        is_new = state.is_seed is None
        if bool(state.is_seed) != is_seed:
            self._mine = self._others = 0  # the seeds' shares change
        state.is_seed = is_seed
        if is_new or is_seed:
            self._count_copies()

    def _on_announced(self, peer: Peer, state: _Peer, spans: int, now: float) -> None:
        """Spans that a peer holds whole since now: they need no offer any more."""
        self._want(state, spans)
        for span in bitsets.iterate(spans):
            owner = self._pending.pop(span, None)
            if owner is not None and owner in self._peers:
                since = self._peers[owner].offered.pop(span)
                self._peers[owner].is_late = False
                self._take_s = _mean(self._take_s, now - since)
            if self._availability.rarity.count(span) == 1 or owner == peer:
                self._on_first_holder(peer, state, span, now)
            elif span in self._carriers and self._carriers[span] != peer:
                self._on_relayed(self._peers[self._carriers[span]], span, now)

    def _on_first_holder(self, peer: Peer, state: _Peer, span: int, now: float) -> None:
        if span in self._carriers:  # its first holder lost it, or keeps it
            self._forget_carried(self._peers[self._carriers.pop(span)], span)
        copies_left = self._copies_left(span)
        if copies_left:
            self._carriers[span] = peer
            state.carried[span] = copies_left
            state.copies_left += copies_left
            state.unrelayed[span] = now

    def _on_relayed(self, carrier: _Peer, span: int, now: float) -> None:
        """One more peer holds a span; the first one may rest when all do."""
        carrier.relayed_at, carrier.withheld_since = now, None
        carrier.carried[span] -= 1
        carrier.copies_left -= 1
        since = carrier.unrelayed.pop(span, None)
        if since is not None:
            self._relay_s = _mean(self._relay_s, now - since)
        if carrier.carried[span] <= 0:
            del self._carriers[span]
            self._forget_carried(carrier, span)

    def _forget_carried(self, carrier: _Peer, span: int) -> None:
        carrier.copies_left -= carrier.carried.pop(span)
        carrier.unrelayed.pop(span, None)

    def _count_copies(self) -> None:
        """Peers came or went, or want more: count anew who lacks what."""
        for state in self._peers.values():
            for span in list(state.carried):
                state.carried[span] = self._copies_left(span)
                if state.carried[span] <= 0:
                    del self._carriers[span]
                    state.unrelayed.pop(span, None)
                    del state.carried[span]
            state.copies_left = sum(state.carried.values())

    def _copies_left(self, span: int) -> int:
        """How many peers want a span and lack it."""
        return self._wanting.count(span) - self._availability.rarity.count(span)

    def _keeps(self, state: _Peer, now: float) -> bool:
        """Whether a peer passes nothing on where others do."""
        if state.withheld_since is not None:
            return True  # until it passes something on
        if self._relay_s is None or not state.unrelayed:
            return False
        since = max(state.relayed_at, next(iter(state.unrelayed.values())))
        return now - since > max(RELAY_GAIN * self._relay_s, RELAY_S_MIN)

    # ---- what to do ----------------------------------------------------------------------------

    def next_actions(self, now: float, served_max: int) -> list[SendOffer]:
        """The offers to send now, a run each; decides anew who is `withheld` a slot.

        served_max: how many peers are served at once; no more have offers.
        """
        self._end_late(now)
        takers = {peer: state for peer, state in self._peers.items() if state.is_seed is False}
        keepers = {peer for peer, state in takers.items() if self._keeps(state, now)}
        if len(keepers) == len(takers):
            keepers.clear()
        held = self._availability.rarity.held()
        for peer in keepers:
            held &= ~bitsets.from_members(takers[peer].unrelayed)
        left = self._wanting.shared() & ~held & ~bitsets.from_members(self._pending)
        self.withheld = frozenset()
        if not left:
            return []
        actions, left = self._offer(left, takers, keepers, served_max, now)
        self._withhold(left, takers, keepers, now)
        return actions

    def _offer(
        self,
        left: int,
        takers: Mapping[Peer, _Peer],
        keepers: Collection[Peer],
        served_max: int,
        now: float,
    ) -> tuple[list[SendOffer], int]:
        """Offers of spans from `left`, and which of them are left then."""
        actions: list[SendOffer] = []
        copies_each = len(takers) - 1
        burdens = {  # of those who may be offered more
            peer: state.copies_left + len(state.offered) * copies_each
            for peer, state in takers.items()
            if peer not in keepers and left & state.wanted & ~state.expired
        }
        full: list[int] = []  # the burdens of those who may not, for now

        def end_turn(peer: Peer) -> None:
            burden = burdens.pop(peer)
            if not takers[peer].is_late:  # or the others would wait for it
                full.append(burden)

        for peer in [peer for peer in burdens if not self._has_room(peer, now)]:
            end_turn(peer)
        served_count = sum(bool(state.offered) for state in takers.values())
        while burdens:
            if served_count >= served_max:
                for peer in [peer for peer in burdens if not takers[peer].offered]:
                    end_turn(peer)
                if not burdens:
                    break
            peer = min(burdens, key=burdens.__getitem__)
            state = takers[peer]
            least = min(full, default=burdens[peer])
            if burdens[peer] > least + CARRIED_SPANS_MAX * copies_each:
                break
            candidates = left & state.wanted & ~state.expired
            if not candidates:
                del burdens[peer]
                continue
            span = self._next_span(candidates)
            left &= ~(1 << span)
            burdens[peer] += copies_each
            served_count += not state.offered
            state.offered[span] = now
            self._pending[span] = peer
            actions.extend(SendOffer(peer, run) for run in self._planner.span(span).runs)
            if not self._has_room(peer, now):
                end_turn(peer)
        return actions, left

    def _withhold(
        self,
        left: int,
        takers: Mapping[Peer, _Peer],
        keepers: Collection[Peer],
        now: float,
    ) -> None:
        """Slots are for those who have offers: what others took of what is `left` would be sent
        twice.
        """
        withheld = {
            peer
            for peer, state in takers.items()
            if left & state.wanted & ~state.expired and (peer in keepers or not state.offered)
        }
        for peer in keepers:
            state = takers[peer]
            if state.withheld_since is None:
                state.withheld_since = now
            if now - state.withheld_since >= WITHHELD_S_MAX:
                withheld.discard(peer)
        self.withheld = frozenset(withheld)

    def next_deadline(self) -> float | None:
        """When an offer is late; None: none is out."""
        times = (min(state.offered.values(), default=None) for state in self._peers.values())
        oldest = min((time for time in times if time is not None), default=None)
        return None if oldest is None else oldest + self._patience_s

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

    @property
    def _patience_s(self) -> float:
        """How long a peer may take to announce what it was offered."""
        if self._take_s is None:
            return OFFER_DEADLINE_S
        return min(max(OFFER_GAIN * self._take_s, OFFER_DEADLINE_S_MIN), OFFER_DEADLINE_S)

    def _end_late(self, now: float) -> None:
        for state in self._peers.values():
            offered = state.offered.items()
            for span in [span for span, since in offered if since + self._patience_s <= now]:
                del state.offered[span]
                self._pending.pop(span, None)
                state.expired |= 1 << span
                state.is_late = True

    def _has_room(self, peer: Peer, now: float) -> bool:
        """Whether a peer shall be offered one more span."""
        state = self._peers[peer]
        if state.is_late or not state.offered:
            return not state.offered
        rate = state.sent.rate(now)
        if rate <= 0.0:
            return len(state.offered) < OFFERS_AHEAD
        out_bytes = sum(self._sizes[span] for span in state.offered)
        return out_bytes < rate * OFFERS_AHEAD_S and len(state.offered) < OFFERS_PER_PEER_MAX

    def _next_span(self, left: int) -> int:
        """The first of our own share; when that is out, the last of the others'."""
        while True:
            candidates = left & self._mine
            if candidates:
                return bitsets.lowest(candidates)
            unknown = left & ~self._mine & ~self._others
            if not unknown:
                return left.bit_length() - 1
            seeds = self._seeds()
            for span in _first(unknown, 64):
                if self._is_mine(span, seeds):
                    self._mine |= 1 << span
                else:
                    self._others |= 1 << span

    def _seeds(self) -> frozenset[Peer]:
        """The other seeds: those that showed it, and those that most peers agree on."""
        counts = Counter(seed for state in self._peers.values() for seed in state.named)
        counts.pop(self._me, None)
        found = [seed for seed, _ in counts.most_common(SEEDS_MAX)]
        found += [peer for peer, state in self._peers.items() if state.is_seed]
        return frozenset(found)

    def _is_mine(self, span: int, seeds: frozenset[Peer]) -> bool:
        """Whether rendezvous hashing gives a span to this seed."""
        run: Run = self._planner.span(span).runs[0]
        place = run.page + run.start.to_bytes(4, "big")
        own = _weight(self._me, place)
        return all(_weight(seed, place) < own for seed in seeds)


def _mean(mean_s: float | None, latest_s: float) -> float:
    """An exponentially weighted mean, begun with the first value."""
    return latest_s if mean_s is None else mean_s + MEAN_WEIGHT * (latest_s - mean_s)


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
