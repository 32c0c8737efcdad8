"""One download: which chunks are asked of whom, and when. A machine over `now`.

It is told of pages, peers and verdicts (`on_…`), answers what to do (`next_actions`) and when to be
asked again (`next_deadline`). It moves no bytes and knows no digest but those of pages. Rules:
  1. A span is asked of one peer at a time, so that a lie has an author.
  2. Exceptions, both of the whole rest of a span: a reader's deadline is at stake, or nothing is
     left to ask (endgame), and another peer would be HEDGE_GAIN times faster. A span not begun
     changes hands; one that was is asked twice.
  3. Nobody is asked for a chunk that it didn't say it holds.
  4. What is verified counts at once, whoever sent it, and never counts twice: progress only grows.
  5. A peer that sent a wrong byte is dropped and banned for this download; one that is silent is
     snubbed, then dropped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import (
    DownloadAction,
    DropPeer,
    DropReason,
    Peer,
    SendCancel,
    SendRequest,
)
from p2phub.core.swarm.asking import Asking
from p2phub.core.swarm.availability import Availability
from p2phub.core.swarm.hedging import HEDGE_CHECK_S, Hedging, is_worth_it, soonest
from p2phub.core.swarm.in_flight import InFlight, entries_of
from p2phub.core.swarm.patience import Patience
from p2phub.core.swarm.picker import Picker
from p2phub.core.swarm.pipeline import (
    PROMISES_BROKEN_MAX,
    REQUESTS_MAX,
    SNUBS_MAX,
    PeerState,
    RequestState,
    are_held_freely,
    in_order,
)
from p2phub.core.swarm.spans import SpanPlanner
from p2phub.core.swarm.statistics import DownloadStatistics, Tally
from p2phub.digest import Digest
from p2phub.proto.messages import REJECT_CHOKED, REJECT_NOT_HELD, Run

OFFER_PATIENCE_S = 0.5  # after an offer: what a seed offers others in this time it sends them first
LIARS_MAX = 1024  # remembered; the oldest is forgotten first


class Download:
    """The chunks of one manifest, of one object, or of some files.

    size_bytes: data bytes expected in all; decides the spans' size unless span_bytes does.
    request_ids: where ids of requests come from; downloads that share sessions must share it.
    """

    def __init__(
        self,
        size_bytes: int,
        rng: random.Random,
        request_ids: Iterator[int] | None = None,
        span_bytes: int | None = None,
    ) -> None:
        self._rng = rng
        self._request_ids = count() if request_ids is None else request_ids
        self._planner = SpanPlanner(size_bytes, span_bytes)
        self._availability = Availability(self._planner)
        self._picker = Picker(self._planner, self._availability, rng)
        self._peers: dict[Peer, PeerState] = {}
        self._joined = count()
        self._in_flight = InFlight()
        self._hedging = Hedging()
        self._asking = Asking()
        self._hungry: dict[Peer, None] = {}  # may find a span to take since they last looked
        self._actions: list[DownloadAction] = []
        self._liars: dict[Peer, None] = {}
        self._tally = Tally()
        self._next_check = float("inf")  # when readers' spans are looked at again
        self._next_hedge = float("-inf")  # no hedging of the endgame before; -inf: nobody is idle
        self._patience = Patience()

    # ---- what is to be fetched -----------------------------------------------------------------

    def on_page(self, page: Digest, lengths: Sequence[int], held: bytes) -> None:
        """A page became known, in manifest order: a file page, then the segments of its files.

        lengths: bytes per entry; 0 for what is no data or not wanted (an empty file, a file with a
        record, a file left out).
        held: have-bits as on the wire. A page told twice is ignored.
        """
        if self._planner.number_of(page) is None:
            self._on_spans(self._planner.add(page, lengths, bitsets.from_wire(held)))
            self._asking.on_pages(self._peers)

    def on_pages_complete(self) -> None:
        """No more pages will come: the last span is cut, and the download can become complete."""
        self._on_spans(self._planner.close_tail())
        self._planner.is_closed = True

    def on_held(self, page: Digest, entries: Sequence[int]) -> None:
        """Entries were verified without this machine: reused from the disk, or got by digest."""
        if (number := self._planner.number_of(page)) is not None:
            self._on_found(number, bitsets.from_members(entries))

    def _on_found(self, number: int, entries: int) -> int:
        """Entries (a set) of a page came by no request in flight; how many bytes were missing."""
        fresh_bytes = self._mark_held(number, entries)
        spans = {
            span
            for start, stop in bitsets.runs(entries)
            for span in self._planner.spans_within(number, start, stop)
        }
        for span in sorted(spans):
            self._settle_if_complete(span)
            if self._picker.open >> span & 1:
                self._availability.judge_spans([span])
                self._wake_all()
        return fresh_bytes

    def want_first(
        self, page: Digest, start: int, stop: int, deadline: float | None = None
    ) -> None:
        """A reader waits for entries [start, stop) of a page.

        With a deadline they come before all else; without, before what nobody waits for.
        """
        number = self._planner.number_of(page)
        if number is None:
            return
        if self._planner.is_in_tail(number, stop):
            self._on_spans(self._planner.close_tail())
        spans = self._planner.spans_within(number, start, stop)
        self._picker.want_first(spans, deadline)
        self._wake_all()

    def _on_spans(self, spans: list[int]) -> None:
        for span in spans:
            if not self._planner.is_span_complete(span):
                self._picker.give_back(span)  # else the disk had it while it was being cut
        self._availability.judge_spans(spans)
        self._wake_all()

    # ---- peers ---------------------------------------------------------------------------------

    def on_peer(
        self, peer: Peer, now: float, *, is_local: bool = False, requests_max: int = REQUESTS_MAX
    ) -> None:
        """A session is open; the peer chokes us until it says otherwise. A liar is dropped."""
        if peer in self._liars:
            self._actions.append(DropPeer(peer, DropReason.BANNED))
        if peer in self._liars or peer in self._peers:
            return
        state = PeerState(peer, next(self._joined), self._availability.join(), now)
        state.is_local, state.requests_max = is_local, max(1, min(requests_max, REQUESTS_MAX))
        self._peers[peer] = state
        self._hungry[peer] = None
        self._asking.on_pages([peer])

    def on_peer_gone(self, peer: Peer, now: float) -> None:
        """The session ended: what was asked of the peer is asked of others."""
        state = self._peers.pop(peer, None)
        if state is None:
            return
        self._hungry.pop(peer, None)
        self._availability.leave(state.holdings)
        for request in list(state.requests.values()):
            self._close(request)

    def on_have(self, peer: Peer, page: Digest, bits: bytes, now: float) -> None:
        """The peer said what it holds of a page it was asked about; no bits: nothing of it."""
        state, number = self._peers.get(peer), self._planner.number_of(page)
        if state is not None and number is not None and number in state.asked:
            self._availability.set_page(state.holdings, number, bitsets.from_wire(bits))
            self._hungry[peer] = None

    def on_have_delta(self, peer: Peer, page: Digest, entries: Sequence[int], now: float) -> bool:
        """The peer holds more of a page it was asked about; whether we may do more for that."""
        state, number = self._peers.get(peer), self._planner.number_of(page)
        if state is None or number not in (holdings := state.holdings).pages:
            return False
        gained = self._availability.add_entries(holdings, number, entries)
        if state.is_choked or not (gained & self._picker.open or holdings.part):
            return False
        if not state.has_room(now, len(self._peers)):
            return False  # what makes room makes hungry, too
        self._hungry[peer] = None
        return True

    def held_by(self, peer: Peer, page: Digest) -> int:
        """What a peer said it holds of a page: a set of entries, as far as they matter here."""
        state, number = self._peers.get(peer), self._planner.number_of(page)
        return 0 if state is None or number is None else state.holdings.pages.get(number, 0)

    def on_choke(self, peer: Peer, now: float) -> None:
        """The peer takes our slot away. What it has not begun to send it rejects one by one."""
        if (state := self._peers.get(peer)) is not None:
            state.is_choked = True

    def on_unchoke(self, peer: Peer, now: float) -> None:
        """The peer gives us a slot."""
        if (state := self._peers.get(peer)) is not None:
            state.is_choked = False
            self._hungry[peer] = None

    def on_offer(self, peer: Peer, run: Run, now: float) -> None:
        """The peer asks us to take a run first: nobody else seems to have it."""
        state, number = self._peers.get(peer), self._planner.number_of(run.page)
        if state is None or number is None:
            return
        spans = self._planner.spans_within(number, run.start, run.stop)
        if wanted := [span for span in spans if not self._planner.is_span_complete(span)]:
            state.offered |= bitsets.from_members(wanted)
            state.offering_until = now + OFFER_PATIENCE_S
            self._patience.wait_for(state)
            self._hungry[peer] = None

    def on_held_back(self, peer: Peer, seconds: float, now: float) -> None:
        """A limit of our own kept us from reading what the peer sends: that is no silence."""
        if peer in self._peers:
            self._peers[peer].on_held_back(seconds, now)

    # ---- requests ------------------------------------------------------------------------------

    def on_progress(self, peer: Peer, request_id: int, chunk_count: int, now: float) -> None:
        """The first `chunk_count` chunks of a request are verified and written.

        In all, not since the last word. Those of a request that was closed meanwhile count too.
        """
        request = self._find(peer, request_id)
        is_late = request is None
        request = request or self._in_flight.find_late(peer, request_id)
        if request is None or chunk_count <= request.verified_count:
            return
        fresh_bytes, first = 0, request.verified_count
        mark = self._on_found if is_late else self._mark_held
        for number, entries in entries_of(request, first, chunk_count, self._planner):
            fresh_bytes += mark(number, entries)
        if is_late:
            received_bytes = request.advance(chunk_count)
        else:
            received_bytes = request.peer.on_verified(request, chunk_count, now)
            if request.peer.offered >> request.span & 1:
                request.peer.offering_until = now + OFFER_PATIENCE_S  # the next offer may follow
            self._patience.wait_for(request.peer)
            self._hungry[peer] = None
        self._tally.count(fresh_bytes, received_bytes, request.sent_at, now)
        self._settle_if_complete(request.span)

    def on_done(self, peer: Peer, request_id: int, now: float) -> None:
        """All chunks of a request are verified and written."""
        request = self._find(peer, request_id) or self._in_flight.find_late(peer, request_id)
        if request is None:
            return
        self.on_progress(peer, request_id, len(request.offsets) - 1, now)
        if self._find(peer, request_id) is not None:
            # The span has more runs than a request may have: its rest is asked next.
            self._close(request)

    def on_stopped(self, peer: Peer, request_id: int, first_missing: int, now: float) -> None:
        """The peer lacks chunk `first_missing` of a request after all, and sends no more of it."""
        if (request := self._find(peer, request_id)) is None:
            return
        holdings, last = request.peer.holdings, first_missing + 1
        for number, entries in entries_of(request, first_missing, last, self._planner):
            self._availability.remove_entry(holdings, number, bitsets.lowest(entries))
        self._close_broken(request)

    def on_failed(self, peer: Peer, request_id: int, now: float) -> None:
        """A request came to nothing and no lie was told: its channel broke.

        It is asked again, of others at once, of this peer after a pause.
        """
        if (request := self._find(peer, request_id)) is not None:
            self._close(request)
            self._pause(request.peer, now)

    def on_reject(self, peer: Peer, request_id: int, code: int, now: float) -> None:
        """The peer will not serve a request (REJECT_*)."""
        if (request := self._find(peer, request_id)) is None:
            return
        state = request.peer
        if code == REJECT_NOT_HELD:
            self._availability.remove_entries(state.holdings, request.span)
            self._close_broken(request)
            return
        self._close(request)
        if code == REJECT_CHOKED:
            self.on_choke(peer, now)
        else:
            self._pause(state, now)

    def on_wrong_bytes(self, peer: Peer, request_id: int, now: float) -> None:
        """A chunk from this peer did not match its name: it is dropped and banned here."""
        self._liars[peer] = None
        if len(self._liars) > LIARS_MAX:
            del self._liars[next(iter(self._liars))]
        if peer in self._peers:
            self._drop(peer, DropReason.WRONG_BYTES, now)

    # ---- what to do ----------------------------------------------------------------------------

    def next_actions(self, now: float) -> list[DownloadAction]:
        """What to do now, in order. Call after events and when `next_deadline` has passed."""
        if now >= self._patience.next_wait:
            self._end_waits(now)
        self._actions.extend(self._asking.next_actions(self._peers, self._planner.pages))
        self._next_check = float("inf")
        if self._picker.urgent:
            self._serve_urgent(now)
        self._fill(now)
        if now >= self._next_hedge:
            self._hedge_slowest(now)
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """When `next_actions` must be called even if nothing happens; None: no need."""
        if self._actions or self._hungry:
            return float("-inf")
        time = min(self._patience.next_wait, self._next_check)
        if self._next_hedge > float("-inf"):
            time = min(time, self._next_hedge)
        return time if time < float("inf") else None

    @property
    def is_complete(self) -> bool:
        """All pages are known and nothing of them is missing."""
        return self._planner.is_complete

    @property
    def verified_bytes(self) -> int:
        """Bytes of the download that are held and were verified; never falls."""
        return self._planner.held_bytes

    @property
    def is_endgame(self) -> bool:
        """Each missing span is asked of somebody: what nobody holds yet would come last anyway."""
        return self._planner.is_closed and not self._picker.open

    def statistics(self, now: float) -> DownloadStatistics:
        """A snapshot for people, metrics and the simulator."""
        return DownloadStatistics.of(
            self._planner, self._picker, self._tally, self._peers.values(), self._liars, now
        )

    # ---- the steps of next_actions -------------------------------------------------------------

    def _end_waits(self, now: float) -> None:
        """Snub or drop who is late, and try again whose pause is over."""
        awake, late = self._patience.end_waits(self._peers.values(), now)
        self._hungry.update((state.peer, None) for state in awake)
        for state in late:
            state.snub_count += 1
            if state.snub_count >= SNUBS_MAX:
                self._drop(state.peer, DropReason.SILENT, now)
                continue
            for request in list(state.requests.values()):
                self._cancel(request)
            self._pause(state, now)

    def _pause(self, state: PeerState, now: float) -> None:
        state.pause(now, self._rng.random())
        self._patience.wait_for(state)

    def _serve_urgent(self, now: float) -> None:
        """Ask for what readers wait for of whoever would send it soonest, behind what it sends."""
        urgent = self._picker.urgent
        for span in sorted(urgent, key=lambda span: (urgent[span], span)):
            requests = self._in_flight.of(span)
            if len(requests) > 1 or not (requests or self._picker.open >> span & 1):
                continue
            left_bytes, deadline = self._planner.span(span).size_bytes, urgent[span]
            best = soonest(span, left_bytes, self._peers.values(), requests, now)
            if best is None:
                continue
            if not requests:
                self._request(best, span, now)
            elif is_worth_it(requests[0], best, deadline, left_bytes, now):
                self._hedge(requests[0], best, now)
            else:
                self._next_check = min(self._next_check, max(deadline, now + HEDGE_CHECK_S))

    def _fill(self, now: float) -> None:
        """Fill the pipelines of all peers that may find a span; local and fast ones first."""
        while self._hungry:
            hungry = [self._peers[peer] for peer in self._hungry if peer in self._peers]
            self._hungry.clear()
            for state in in_order(hungry, now):
                while state.has_room(now, len(self._peers)):
                    span = self._pick(state)
                    if span is None:
                        break
                    self._request(state, span, now)

    def _pick(self, state: PeerState) -> int | None:
        # A seed that makes offers makes enough of them for its wire: what else we took from it, it
        # would send twice.
        is_offering = state.is_offering and not are_held_freely(self._picker.open, self._peers)
        while True:
            span = self._picker.pick(
                state.holdings,
                state.offered,
                is_offered_only=is_offering,
                in_order=len(self._peers) == 1,
            )
            if span is not None or is_offering:
                return span
            changed = self._picker.split_for(state.holdings)
            if changed is None:
                return None
            self._availability.judge_spans(changed)
            self._wake_all()

    def _hedge_slowest(self, now: float) -> None:
        """In the endgame, let idle peers take over the spans that would come last."""
        self._next_hedge = float("-inf")
        if not self._in_flight or not self.is_endgame:
            return
        idle = [state for state in self._peers.values() if state.is_ready and not state.requests]
        if not idle:
            return
        self._next_hedge = now + HEDGE_CHECK_S
        by_span = self._in_flight.by_span
        for request, state in self._hedging.takeovers(in_order(idle, now), by_span, now):
            self._hedge(request, state, now)

    def _hedge(self, request: RequestState, state: PeerState, now: float) -> None:
        span = request.span
        self._hedging.count(span)
        is_head = next(iter(request.peer.requests.values())) is request
        if not is_head and request.verified_count == 0:
            self._cancel(request)
        self._request(state, span, now)

    # ---- requests, opened and closed in one place each -----------------------------------------

    def _request(self, state: PeerState, index: int, now: float) -> None:
        span = self._planner.span(index)
        request = RequestState(next(self._request_ids), state, span, now)
        self._in_flight.add(request)
        self._picker.take(index)
        state.on_sent(request, now)
        self._patience.wait_for(state)
        self._actions.append(SendRequest(state.peer, request.id, span))

    def _close(self, request: RequestState) -> None:
        """A request is over; what is left of its span is open again if nobody else is asked."""
        request.peer.on_closed(request)
        self._hungry[request.peer.peer] = None
        if not self._in_flight.remove(request):
            return
        if self._planner.is_span_complete(request.span):
            self._hedging.forget(request.span)
            return
        self._availability.judge_shrunk(request.span)
        self._picker.give_back(request.span)
        self._wake_all()

    def _cancel(self, request: RequestState) -> None:
        self._actions.append(SendCancel(request.peer.peer, request.id))
        self._close(request)

    def _settle_if_complete(self, span: int) -> None:
        """Less is missing of a span; if it is nothing, end all that was done about it."""
        if not self._planner.is_span_complete(span):
            self._availability.shrunk.add(span)
            return
        self._picker.settle(span)
        for request in self._in_flight.of(span):
            (self._cancel if request.remaining_bytes else self._close)(request)

    def _drop(self, peer: Peer, reason: DropReason, now: float) -> None:
        self._actions.append(DropPeer(peer, reason))
        self.on_peer_gone(peer, now)

    def _close_broken(self, request: RequestState) -> None:
        """A peer doesn't hold what it said; once too often, and it is dropped."""
        self._close(request)
        state = request.peer
        state.promises_broken_count += 1
        if state.promises_broken_count >= PROMISES_BROKEN_MAX and state.peer in self._peers:
            self._drop(state.peer, DropReason.BROKEN_PROMISES, state.waiting_since)

    def _find(self, peer: Peer, request_id: int) -> RequestState | None:
        """A request in flight; None: it was closed, and the event is late."""
        return self._peers[peer].requests.get(request_id) if peer in self._peers else None

    def _wake_all(self) -> None:
        self._hungry.update(dict.fromkeys(self._peers))

    def _mark_held(self, number: int, entries: int) -> int:
        size_bytes = self._planner.mark_held(number, entries)
        if size_bytes and not self._planner.pages[number].missing:
            self._availability.forget_page(number)
            self._asking.on_pages(self._peers)
        return size_bytes
