"""One download: which chunks are asked of whom, and when. A machine over `now`; the node carries out what it says.

It is told of pages, peers and verdicts (`on_…`) and answers what to do (`next_actions`) and when to be asked again
(`next_deadline`). It moves no bytes and knows no digest but those of pages. Rules:
  1. A span is asked of one peer at a time, so that a lie has an author.
  2. Exceptions, both of the whole rest of a span: a reader's deadline has passed, or nothing is left to ask (endgame) and an idle
     peer would be at least HEDGE_GAIN times faster. A span not begun changes hands; one that was is asked twice.
  3. Nobody is asked for a chunk that it didn't say it holds.
  4. What is verified counts at once, whoever sent it, and never counts twice: progress only grows.
  5. A peer that sent a wrong byte is dropped and banned for this download; one that is silent is snubbed, then dropped.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import (
    AskPages,
    DownloadAction,
    DropPeer,
    DropReason,
    Peer,
    SendCancel,
    SendRequest,
)
from p2phub.core.swarm.availability import Availability
from p2phub.core.swarm.picker import Picker
from p2phub.core.swarm.pipeline import PROMISES_BROKEN_MAX, SNUBS_MAX, PeerState, RequestState
from p2phub.core.swarm.rates import RateMeter
from p2phub.core.swarm.spans import SpanPlanner
from p2phub.digest import Digest
from p2phub.proto.limits import PAGES_PER_ASK_MAX
from p2phub.proto.messages import REJECT_CHOKED, REJECT_NOT_HELD, Run

PAGES_WATCHED_MAX = 1024  # per peer: 1 MiB of have-bits; the next are asked about as pages complete
HEDGE_GAIN = 2.0  # less would pay more duplicates than time saved
HEDGE_CHECK_S = 0.1  # how often idle peers in the endgame look for slower ones' spans
HEDGES_PER_SPAN_MAX = 4  # a span that changes hands more often is not the peers' fault
OFFER_PATIENCE_S = (
    2.0  # after an offer: until then what a seed does not offer us it sends to others first
)
LATE_REQUESTS_MAX = (
    256  # closed requests that chunks may still come from: more than are cancelled at once
)
RATE_WINDOW_S = 5.0  # of what is shown
LIARS_MAX = 1024  # remembered; the oldest is forgotten first


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What is known of one peer of a download."""

    peer: Peer
    is_local: bool
    is_choked: bool  # it gives us no slot now
    is_snubbed: bool  # it was silent and is tried again later
    rate_bytes_per_s: float  # verified, over the time with requests in flight
    delay_s: (
        float | None
    )  # from request to first chunk when nothing was queued; None: not measured yet
    verified_bytes: int
    spans_held_count: int
    requests_count: int  # in flight
    requests_max: int  # that the pipeline allows now


@dataclass(frozen=True, slots=True)
class DownloadStatistics:
    """A snapshot of one download."""

    verified_bytes: int  # held at the start included; never falls
    fetched_bytes: int  # of these, from peers
    duplicate_bytes: int  # verified but held already: the price of hedging
    total_bytes: int  # an estimate until all pages are known
    rate_bytes_per_s: float
    eta_s: float | None  # None: not known
    is_complete: bool
    spans_count: int
    spans_open_count: int  # missing and asked of nobody
    requests_count: int  # in flight
    peers: tuple[PeerFacts, ...]
    liars: tuple[Peer, ...]  # sent wrong bytes, oldest first


class Download:
    """The chunks of one manifest, of one object, or of some files.

    size_bytes: data bytes expected in all; decides the spans' size. request_ids: where ids of requests come from; downloads that
    share sessions must share it.
    """

    def __init__(
        self, size_bytes: int, rng: random.Random, request_ids: Iterator[int] | None = None
    ) -> None:
        self._size_bytes = size_bytes
        self._rng = rng
        self._request_ids = count() if request_ids is None else request_ids
        self._planner = SpanPlanner(size_bytes)
        self._availability = Availability(self._planner)
        self._picker = Picker(self._planner, self._availability, rng)
        self._peers: dict[Peer, PeerState] = {}
        self._joined = count()
        self._requests: dict[
            int, list[RequestState]
        ] = {}  # span -> who is asked for it, first first
        self._late: dict[
            tuple[Peer, int], RequestState
        ] = {}  # closed before they were done, oldest first
        self._hedge_counts: dict[int, int] = {}  # span -> times it was hedged
        self._to_ask: dict[Peer, None] = {}  # peers that may be asked about more pages
        self._hungry: dict[
            Peer, None
        ] = {}  # peers that may find a span to take since they last looked
        self._actions: list[DownloadAction] = []
        self._liars: dict[Peer, None] = {}
        self._fetched_bytes = 0
        self._duplicate_bytes = 0
        self._meter: RateMeter | None = None
        self._next_check: float | None = None  # when readers' spans are looked at again
        self._next_hedge = float("-inf")  # no hedging of the endgame before
        self._is_hedging = False  # somebody is idle in the endgame
        self._next_wait = float("inf")  # no peer's deadline or end of pause lies before

    # ---- what is to be fetched -----------------------------------------------------------------

    def on_page(self, page: Digest, lengths: Sequence[int], held: bytes) -> None:
        """A page became known, in manifest order: a file page, then the segments of its files.

        lengths: bytes per entry; 0 for what is no data or not wanted (an empty file, a file with a record, a file left
        out). held: have-bits as on the wire. A page told twice is ignored.
        """
        if self._planner.number_of(page) is None:
            self._on_spans(self._planner.add(page, lengths, bitsets.from_wire(held)))
            self._to_ask.update(dict.fromkeys(self._peers))

    def on_pages_complete(self) -> None:
        """No more pages will come: the last span is closed, and the download can become complete."""
        self._on_spans(self._planner.close_tail())
        self._planner.is_closed = True

    def on_held(self, page: Digest, entries: Sequence[int]) -> None:
        """Entries were verified without this machine: reused from the disk, or fetched by digest."""
        number = self._planner.number_of(page)
        if number is not None:
            self._on_found(number, bitsets.from_members(entries))

    def _on_found(self, number: int, entries: int) -> int:
        """Entries (a set) of a page came otherwise than by a request in flight; how many bytes were missing."""
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
        """A reader waits for entries [start, stop) of a page; with a deadline they come before all else."""
        number = self._planner.number_of(page)
        if number is None:
            return
        if self._planner.is_in_tail(number, stop):
            self._on_spans(self._planner.close_tail())
        for span in self._planner.spans_within(number, start, stop):
            if self._planner.is_span_complete(span):
                continue
            if deadline is None:
                self._picker.first |= 1 << span
            else:
                self._picker.urgent[span] = min(deadline, self._picker.urgent.get(span, deadline))
        self._wake_all()

    def _on_spans(self, spans: list[int]) -> None:
        for span in spans:
            if not self._planner.is_span_complete(
                span
            ):  # else the disk had it while it was being cut
                self._picker.give_back(span)
        if spans:
            self._availability.judge_spans(spans)
            self._wake_all()

    # ---- peers ---------------------------------------------------------------------------------

    def on_peer(
        self, peer: Peer, now: float, *, is_local: bool = False, requests_max: int = 64
    ) -> None:
        """A session is open; the peer chokes us until it says otherwise. A banned peer is dropped at once."""
        if peer in self._liars:
            self._actions.append(DropPeer(peer, DropReason.BANNED))
            return
        if peer in self._peers:
            return
        state = PeerState(peer, next(self._joined), self._availability.join(), now)
        state.is_local = is_local
        state.requests_max = max(1, min(requests_max, state.requests_max))
        self._peers[peer] = state
        self._hungry[peer] = None
        self._to_ask[peer] = None

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
        """The peer said what it holds of a page; no bits: it doesn't know the page, and holds nothing of it."""
        state, number = self._peers.get(peer), self._planner.number_of(page)
        if state is None or number is None or number not in state.asked:
            return
        if self._availability.set_page(state.holdings, number, bitsets.from_wire(bits)):
            self._hungry[peer] = None
        elif state.holdings.part:
            self._hungry[peer] = None

    def on_have_delta(self, peer: Peer, page: Digest, entries: Sequence[int], now: float) -> None:
        """The peer holds more of a page it was asked about."""
        state, number = self._peers.get(peer), self._planner.number_of(page)
        if state is None or number is None or number not in state.asked:
            return
        self._availability.add_entries(state.holdings, number, entries)
        self._hungry[peer] = None

    def on_choke(self, peer: Peer, now: float) -> None:
        """The peer takes our slot away; it forgets what it had not begun to send."""
        state = self._peers.get(peer)
        if state is None or state.is_choked:
            return
        state.is_choked = True
        for request in list(state.requests.values()):
            if request.verified_count == 0:
                self._cancel(request)

    def on_unchoke(self, peer: Peer, now: float) -> None:
        """The peer gives us a slot."""
        state = self._peers.get(peer)
        if state is not None:
            state.is_choked = False
            self._hungry[peer] = None

    def on_offer(self, peer: Peer, run: Run, now: float) -> None:
        """The peer asks us to take a run first: nobody else seems to have it."""
        state, number = self._peers.get(peer), self._planner.number_of(run.page)
        if state is None or number is None:
            return
        for span in self._planner.spans_within(number, run.start, run.stop):
            state.offered |= 1 << span
        state.offering_until = now + OFFER_PATIENCE_S
        self._wait_for(state)
        self._hungry[peer] = None

    # ---- requests ------------------------------------------------------------------------------

    def on_progress(self, peer: Peer, request_id: int, chunk_count: int, now: float) -> None:
        """The first `chunk_count` chunks of a request (in all, not since the last word) are verified and written."""
        request = self._find(peer, request_id)
        if request is None:
            self._on_late_progress(peer, request_id, chunk_count)
            return
        if chunk_count <= request.verified_count:
            return
        assert chunk_count < len(request.offsets)
        state = request.peer
        fresh_bytes = 0
        for number, entries in self._entries(request, request.verified_count, chunk_count):
            fresh_bytes += self._mark_held(number, entries)
        received_bytes = state.on_verified(request, chunk_count, now)
        self._wait_for(state)
        self._fetched_bytes += fresh_bytes
        self._duplicate_bytes += received_bytes - fresh_bytes
        if self._meter is None:
            self._meter = RateMeter(request.sent_at, RATE_WINDOW_S)
        self._meter.add(fresh_bytes, now)
        self._hungry[peer] = None
        self._settle_if_complete(request.span)

    def _on_late_progress(self, peer: Peer, request_id: int, chunk_count: int) -> None:
        """Chunks of a request that was closed meanwhile: they were under way, and they count."""
        request = self._late.get((peer, request_id))
        if request is None or chunk_count <= request.verified_count:
            return
        assert chunk_count < len(request.offsets)
        fresh_bytes = 0
        for number, entries in self._entries(request, request.verified_count, chunk_count):
            fresh_bytes += self._on_found(number, entries)
        size_bytes = request.offsets[chunk_count] - request.offsets[request.verified_count]
        request.verified_count = chunk_count
        self._fetched_bytes += fresh_bytes
        self._duplicate_bytes += size_bytes - fresh_bytes

    def on_done(self, peer: Peer, request_id: int, now: float) -> None:
        """All chunks of a request are verified and written."""
        request = self._find(peer, request_id) or self._late.get((peer, request_id))
        if request is None:
            return
        self.on_progress(peer, request_id, len(request.offsets) - 1, now)
        if self._find(peer, request_id) is not None:
            self._close(
                request
            )  # a span of more runs than a request may have: its rest is asked next

    def on_stopped(self, peer: Peer, request_id: int, first_missing: int, now: float) -> None:
        """The peer lacks chunk `first_missing` of a request after all, and sends no more of it."""
        request = self._find(peer, request_id)
        if request is None:
            return
        for number, entries in self._entries(request, first_missing, first_missing + 1):
            self._availability.remove_entry(request.peer.holdings, number, bitsets.lowest(entries))
        self._close(request)
        self._on_promise_broken(request.peer)

    def on_failed(self, peer: Peer, request_id: int, now: float) -> None:
        """A request came to nothing and no lie was told: its channel broke. It is asked again, of the peer after a pause."""
        request = self._find(peer, request_id)
        if request is not None:
            self._close(request)
            self._pause(request.peer, now)

    def on_reject(self, peer: Peer, request_id: int, code: int, now: float) -> None:
        """The peer will not serve a request (REJECT_*)."""
        request = self._find(peer, request_id)
        if request is None:
            return
        state = request.peer
        if code == REJECT_NOT_HELD:
            self._availability.remove_entries(state.holdings, request.span)
            self._close(request)
            self._on_promise_broken(state)
            return
        self._close(request)
        if code == REJECT_CHOKED:
            self.on_choke(peer, now)
        else:
            self._pause(state, now)

    def on_wrong_bytes(self, peer: Peer, request_id: int, now: float) -> None:
        """A chunk from this peer did not match its name: the peer is dropped and banned for this download."""
        self._liars[peer] = None
        if len(self._liars) > LIARS_MAX:
            del self._liars[next(iter(self._liars))]
        if peer in self._peers:
            self._drop(peer, DropReason.WRONG_BYTES, now)

    # ---- what to do ----------------------------------------------------------------------------

    def next_actions(self, now: float) -> list[DownloadAction]:
        """What to do now, in order. Call after events and when `next_deadline` has passed."""
        if now >= self._next_wait:
            self._end_waits(now)
        self._ask_pages()
        self._next_check = None
        if self._picker.urgent:
            self._serve_urgent(now)
        self._fill(now)
        if now >= self._next_hedge:
            self._hedge_slowest(now)
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """When `next_actions` must be called even if nothing happens; None: no need."""
        if self._actions:
            return float("-inf")
        time = self._next_wait
        if self._next_check is not None:
            time = min(time, self._next_check)
        if self._is_hedging:
            time = min(time, self._next_hedge)
        return time if time < float("inf") else None

    @property
    def is_complete(self) -> bool:
        """All pages are known and nothing of them is missing."""
        return self._planner.is_closed and self._planner.missing_bytes == 0

    @property
    def verified_bytes(self) -> int:
        """Bytes of the download that are held and were verified; never falls."""
        return self._planner.total_bytes - self._planner.missing_bytes

    @property
    def is_endgame(self) -> bool:
        """Nothing is left to ask of anyone: all pages are known and each open span is held by nobody."""
        return self._planner.is_closed and not self._picker.open & self._availability.rarity.held()

    def statistics(self, now: float) -> DownloadStatistics:
        """A snapshot for people, metrics and the simulator."""
        planner = self._planner
        verified_bytes = self.verified_bytes
        total_bytes = planner.total_bytes
        if not planner.is_closed:
            total_bytes = max(total_bytes, self._size_bytes)
        rate = self._meter.rate(now) if self._meter is not None else 0.0
        left_bytes = total_bytes - verified_bytes
        return DownloadStatistics(
            verified_bytes=verified_bytes,
            fetched_bytes=self._fetched_bytes,
            duplicate_bytes=self._duplicate_bytes,
            total_bytes=total_bytes,
            rate_bytes_per_s=rate,
            eta_s=0.0 if self.is_complete else left_bytes / rate if rate > 1.0 else None,
            is_complete=self.is_complete,
            spans_count=len(planner),
            spans_open_count=self._picker.open.bit_count(),
            requests_count=sum(len(state.requests) for state in self._peers.values()),
            peers=tuple(_facts(state, now) for state in self._peers.values()),
            liars=tuple(self._liars),
        )

    # ---- the steps of next_actions -------------------------------------------------------------

    def _end_waits(self, now: float) -> None:
        """Snub or drop who is late, and try again whose pause is over."""
        self._next_wait = float("inf")
        for state in list(self._peers.values()):
            if state.paused_until is not None and state.paused_until <= now:
                state.paused_until = None
                self._hungry[state.peer] = None
            if state.offering_until is not None and state.offering_until <= now:
                state.offering_until = None
                self._hungry[state.peer] = None
            deadline = state.deadline()
            if deadline is not None and deadline <= now:
                self._snub(state, now)
            else:
                self._wait_for(state)

    def _snub(self, state: PeerState, now: float) -> None:
        state.snub_count += 1
        if state.snub_count >= SNUBS_MAX:
            self._drop(state.peer, DropReason.SILENT, now)
            return
        for request in list(state.requests.values()):
            self._cancel(request)
        self._pause(state, now)

    def _pause(self, state: PeerState, now: float) -> None:
        state.pause(now, self._rng.random())
        self._wait_for(state)

    def _wait_for(self, state: PeerState) -> None:
        """Be called again when this peer is late or its pause is over; a wake-up too early does no harm."""
        for time in (state.paused_until, state.offering_until, state.deadline()):
            if time is not None and time < self._next_wait:
                self._next_wait = time

    def _ask_pages(self) -> None:
        pages = self._planner.pages
        for peer in self._to_ask:
            state = self._peers.get(peer)
            if state is None or len(state.holdings.pages) >= PAGES_WATCHED_MAX:
                continue
            asked: list[Digest] = []
            for number, page in enumerate(pages):
                if number in state.asked:
                    continue
                if page.missing:
                    if len(asked) + len(state.holdings.pages) >= PAGES_WATCHED_MAX:
                        break
                    asked.append(page.digest)
                    state.holdings.pages[number] = 0
                state.asked.add(number)
            for start in range(0, len(asked), PAGES_PER_ASK_MAX):
                part = tuple(asked[start : start + PAGES_PER_ASK_MAX])
                self._actions.append(AskPages(state.peer, part))
        self._to_ask.clear()

    def _serve_urgent(self, now: float) -> None:
        """Ask for what readers wait for of whoever would send it soonest, whatever is in its pipeline."""
        for span in sorted(self._picker.urgent, key=lambda span: (self._picker.urgent[span], span)):
            requests = self._requests.get(span, [])
            if len(requests) > 1 or not (requests or self._picker.open >> span & 1):
                continue
            left_bytes = self._planner.span(span).size_bytes
            askable = [
                state
                for state in self._peers.values()
                if state.is_ready
                and state.holdings.whole >> span & 1
                and len(state.requests) < state.requests_max
                and not any(request.peer is state for request in requests)
            ]
            if not askable:
                continue
            best = min(askable, key=lambda state: _urgent_order(state, left_bytes, now))
            if not requests:
                self._request(best, span, now)
                continue
            holder = requests[0]
            deadline = self._picker.urgent[span]
            is_late = now >= deadline or now + holder.peer.request_eta_s(holder, now) > deadline
            is_faster = HEDGE_GAIN * best.eta_s(left_bytes, now) < holder.peer.request_eta_s(
                holder, now
            )
            if is_late and is_faster:
                self._hedge(holder, best, now)
            else:
                self._check_at(max(deadline, now + HEDGE_CHECK_S))

    def _fill(self, now: float) -> None:
        """Fill the pipelines of all peers that may have something to take; local and fast ones first."""
        while self._hungry:
            hungry = [self._peers[peer] for peer in self._hungry if peer in self._peers]
            self._hungry.clear()
            hungry.sort(key=lambda state: (not state.is_local, -state.rate(now), state.order))
            for state in hungry:
                while state.has_room(now):
                    # A seed that makes offers makes enough of them for its wire: what else we took from
                    # it, it would send twice.
                    is_offered_only = state.offering_until is not None
                    span = self._picker.pick(
                        state.holdings, state.offered, is_offered_only=is_offered_only
                    )
                    if span is None:
                        if is_offered_only:
                            break
                        changed = self._picker.split_for(state.holdings)
                        if changed is None:
                            break
                        self._availability.judge_spans(changed)
                        self._wake_all()
                        continue
                    self._request(state, span, now)

    def _hedge_slowest(self, now: float) -> None:
        """In the endgame, let idle peers take over the spans that would come last."""
        self._is_hedging = False
        idle = [state for state in self._peers.values() if state.is_ready and not state.requests]
        if not idle or not self._requests or not self.is_endgame:
            return
        self._is_hedging = True
        self._next_hedge = now + HEDGE_CHECK_S
        slow = [
            (requests[0].peer.request_eta_s(requests[0], now), requests[0])
            for span, requests in self._requests.items()
            if len(requests) == 1 and self._hedge_counts.get(span, 0) < HEDGES_PER_SPAN_MAX
        ]
        slow.sort(key=lambda row: (-row[0], row[1].id))
        idle.sort(key=lambda state: (not state.is_local, -state.rate(now), state.order))
        for state in idle:
            for row in slow:
                eta_s, request = row
                if HEDGE_GAIN * state.eta_s(0, now) >= eta_s:
                    break  # nor is it faster than those that follow
                is_faster = HEDGE_GAIN * state.eta_s(request.remaining_bytes, now) < eta_s
                if is_faster and state.holdings.whole >> request.span & 1:
                    self._hedge(request, state, now)
                    slow.remove(row)
                    break

    def _hedge(self, request: RequestState, state: PeerState, now: float) -> None:
        span = request.span
        self._hedge_counts[span] = self._hedge_counts.get(span, 0) + 1
        is_head = next(iter(request.peer.requests.values())) is request
        if not is_head and request.verified_count == 0:
            self._cancel(request)
        self._request(state, span, now)

    def _check_at(self, time: float) -> None:
        self._next_check = time if self._next_check is None else min(self._next_check, time)

    # ---- requests, opened and closed in one place each -----------------------------------------

    def _request(self, state: PeerState, index: int, now: float) -> None:
        span = self._planner.span(index)
        request = RequestState(next(self._request_ids), state, span, now)
        self._requests.setdefault(index, []).append(request)
        self._picker.take(index)
        state.on_sent(request, now)
        self._wait_for(state)
        self._actions.append(SendRequest(state.peer, request.id, span))

    def _close(self, request: RequestState) -> None:
        """A request is over; if its span isn't, and nobody else is asked for it, it is open again."""
        if request.remaining_bytes:
            self._late[request.peer.peer, request.id] = request
            if len(self._late) > LATE_REQUESTS_MAX:
                del self._late[next(iter(self._late))]
        request.peer.on_closed(request)
        self._hungry[request.peer.peer] = None
        others = self._requests[request.span]
        others.remove(request)
        if others:
            return
        del self._requests[request.span]
        if self._planner.is_span_complete(request.span):
            self._picker.settle(request.span)
            self._hedge_counts.pop(request.span, None)
            return
        self._availability.judge_spans(
            [request.span]
        )  # less may be missing: more peers hold its rest
        self._picker.give_back(request.span)
        self._wake_all()

    def _cancel(self, request: RequestState) -> None:
        self._actions.append(SendCancel(request.peer.peer, request.id))
        self._close(request)

    def _settle_if_complete(self, span: int) -> None:
        """If nothing is missing of a span, end all that was done about it."""
        if not self._planner.is_span_complete(span):
            return
        self._picker.settle(span)
        for request in list(self._requests.get(span, ())):
            if request.remaining_bytes:
                self._cancel(request)
            else:
                self._close(request)

    def _drop(self, peer: Peer, reason: DropReason, now: float) -> None:
        self._actions.append(DropPeer(peer, reason))
        self.on_peer_gone(peer, now)

    def _on_promise_broken(self, state: PeerState) -> None:
        state.promises_broken_count += 1
        if state.promises_broken_count >= PROMISES_BROKEN_MAX and state.peer in self._peers:
            self._drop(state.peer, DropReason.BROKEN_PROMISES, state.waiting_since)

    # ---- small things --------------------------------------------------------------------------

    def _find(self, peer: Peer, request_id: int) -> RequestState | None:
        """A request in flight; None: it was cancelled, or its peer is gone, and the event is late."""
        state = self._peers.get(peer)
        return None if state is None else state.requests.get(request_id)

    def _wake_all(self) -> None:
        self._hungry.update(dict.fromkeys(self._peers))

    def _mark_held(self, number: int, entries: int) -> int:
        size_bytes = self._planner.mark_held(number, entries)
        if size_bytes and not self._planner.pages[number].missing:
            self._availability.forget_page(number)
            if len(self._planner.pages) > PAGES_WATCHED_MAX:
                self._to_ask.update(dict.fromkeys(self._peers))
        return size_bytes

    def _entries(self, request: RequestState, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Chunks [first, last) of a request as (page number, set of entries)."""
        base = 0
        for run in request.runs:
            start, stop = max(first - base, 0), min(last - base, len(run))
            if start < stop:
                number = self._planner.number_of(run.page)
                assert number is not None
                yield number, bitsets.interval(run.start + start, run.start + stop)
            base += len(run)


def _urgent_order(state: PeerState, size_bytes: int, now: float) -> tuple[bool, float, int, int]:
    """Soonest first; where no rate is known, whoever has the least in its pipeline."""
    eta_s = state.eta_s(size_bytes, now)
    return state.is_snubbed, eta_s, state.in_flight_bytes, state.order


def _facts(state: PeerState, now: float) -> PeerFacts:
    return PeerFacts(
        peer=state.peer,
        is_local=state.is_local,
        is_choked=state.is_choked,
        is_snubbed=state.is_snubbed,
        rate_bytes_per_s=state.rate(now),
        delay_s=state.delay_s,
        verified_bytes=state.verified_bytes,
        spans_held_count=state.holdings.whole.bit_count(),
        requests_count=len(state.requests),
        requests_max=state.requests_allowed(now),
    )
