"""Any order of events: a download loses no span, asks nobody for what they lack, and completes with
one honest peer.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import AskPages, DropPeer, DropReason, SendCancel, SendRequest
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.spans import Span
from p2phub.proto.limits import RUNS_PER_SPAN_MAX
from p2phub.proto.messages import REJECT_BUSY, REJECT_CHOKED, REJECT_NOT_HELD, REJECT_TOO_LARGE, Run

PEERS = [f"peer-{number}" for number in range(5)]
HONEST = "honest"
Chunk = tuple[bytes, int]


class DownloadMachine(RuleBasedStateMachine):
    """Plays all the world around one download, and keeps its own books."""

    @initialize(
        seed=st.integers(0, 2**32),
        pages=st.lists(
            st.lists(
                st.sampled_from([0, 1, 40_000, 150_000, 262_144, 1 << 20]), min_size=1, max_size=24
            ),
            min_size=1,
            max_size=4,
        ),
    )
    def begin(self, seed: int, pages: list[list[int]]) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.lengths = {bytes([number]) * 32: page for number, page in enumerate(pages)}
        total = sum(map(sum, pages))
        self.download = Download(total, random.Random(seed))
        self.unknown_pages = list(self.lengths)
        self.is_told = False
        self.held: set[Chunk] = set()
        self.told: dict[str, dict[bytes, set[int]]] = {}  # what each connected peer said it holds
        self.asked: dict[str, set[bytes]] = {}
        self.requests: dict[tuple[str, int], tuple[Span, int]] = {}  # and chunks verified
        self.closed: dict[tuple[str, int], tuple[Span, int]] = {}
        self.banned: set[str] = set()
        self.unchoked: set[str] = set()
        self.last_verified = 0

    # ---- the world -----------------------------------------------------------------------------

    @rule(data=st.data())
    @precondition(lambda self: self.unknown_pages)
    def page_becomes_known(self, data: st.DataObject) -> None:
        page = self.unknown_pages.pop(0)
        count = len(self.lengths[page])
        entries = data.draw(st.sets(st.integers(0, count - 1), max_size=count // 2))
        held = bitsets.to_wire(bitsets.from_members(entries), count)
        self.held |= {(page, entry) for entry in entries if self.lengths[page][entry]}
        self.download.on_page(page, self.lengths[page], held)
        self.act()

    @rule()
    @precondition(lambda self: not self.unknown_pages and not self.is_told)
    def pages_are_complete(self) -> None:
        self.is_told = True
        self.download.on_pages_complete()
        self.act()

    @rule(peer=st.sampled_from(PEERS), requests_max=st.integers(1, 64), is_local=st.booleans())
    def peer_joins(self, peer: str, requests_max: int, is_local: bool) -> None:
        self.download.on_peer(peer, self.now, is_local=is_local, requests_max=requests_max)
        if peer not in self.banned and peer not in self.told:
            self.told[peer], self.asked[peer] = {}, set()
        self.act()

    @rule(peer=st.sampled_from(PEERS))
    def peer_leaves(self, peer: str) -> None:
        self.forget(peer)
        self.download.on_peer_gone(peer, self.now)
        self.act()

    @rule(peer=st.sampled_from(PEERS), data=st.data())
    def peer_answers(self, peer: str, data: st.DataObject) -> None:
        if not self.asked.get(peer):
            return
        page = data.draw(st.sampled_from(sorted(self.asked[peer])))
        count = len(self.lengths[page])
        some = st.sets(st.integers(0, count - 1))
        entries = data.draw(st.one_of(st.just(set(range(count))), some))
        self.told[peer][page] = set(entries)
        bits = bitsets.to_wire(bitsets.from_members(entries), count) if entries else b""
        self.download.on_have(peer, page, bits, self.now)
        self.act()

    @rule(peer=st.sampled_from(PEERS), data=st.data())
    def peer_gains(self, peer: str, data: st.DataObject) -> None:
        if not self.asked.get(peer):
            return
        page = data.draw(st.sampled_from(sorted(self.asked[peer])))
        entries = data.draw(st.lists(st.integers(0, 30), max_size=5))
        self.told[peer].setdefault(page, set()).update(entries)
        due = self.download.next_deadline()
        is_quiet = due is None or due > self.now
        if not self.download.on_have_delta(peer, page, entries, self.now) and is_quiet:
            assert not self.download.next_actions(self.now), "it said that there is nothing to do"
        self.act()

    @rule(peer=st.sampled_from(PEERS))
    def peer_unchokes(self, peer: str) -> None:
        self.download.on_unchoke(peer, self.now)
        if peer in self.told:
            self.unchoked.add(peer)
        self.act()

    @rule(peer=st.sampled_from(PEERS))
    def peer_chokes(self, peer: str) -> None:
        self.unchoked.discard(peer)
        self.download.on_choke(peer, self.now)
        self.act()

    @rule(peer=st.sampled_from(PEERS), page=st.integers(0, 4), start=st.integers(0, 20))
    def peer_offers(self, peer: str, page: int, start: int) -> None:
        self.download.on_offer(peer, Run(bytes([page]) * 32, start, start + 3), self.now)
        self.act()

    @rule(page=st.integers(0, 4), start=st.integers(0, 20), wait=st.none() | st.floats(0, 5))
    def reader_waits(self, page: int, start: int, wait: float | None) -> None:
        deadline = None if wait is None else self.now + wait
        self.download.want_first(bytes([page]) * 32, start, start + 2, deadline)
        self.act()

    @rule(page=st.integers(0, 3), entries=st.sets(st.integers(0, 23), max_size=3))
    def disk_has_more(self, page: int, entries: set[int]) -> None:
        name = bytes([page]) * 32
        if name not in self.lengths or name in self.unknown_pages:
            return
        found = {e for e in entries if e < len(self.lengths[name]) and self.lengths[name][e]}
        self.download.on_held(name, sorted(found))
        self.held |= {(name, entry) for entry in found}
        self.act()

    @rule(seconds=st.sampled_from([0.01, 0.3, 3.0, 40.0, 300.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(10_000):
            deadline = self.download.next_deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.act()
        else:
            raise AssertionError("the machine asks to be called again and again")
        self.now = end
        self.act()

    # ---- requests ------------------------------------------------------------------------------

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def chunks_arrive(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.requests)))
        span, verified = self.requests[key]
        count = data.draw(st.integers(verified, span.chunk_count))
        self.deliver(key, count)
        self.act()

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def request_is_done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.requests)))
        self.finish(key)
        self.act()

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def peer_stops(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.requests)))
        span, verified = self.requests[key]
        if verified == span.chunk_count:
            return
        del self.requests[key]
        chunk = _chunks(span)[verified]
        self.told[key[0]][chunk[0]].discard(chunk[1])
        self.download.on_stopped(*key, verified, self.now)
        self.act()

    @rule(
        data=st.data(),
        code=st.sampled_from([REJECT_BUSY, REJECT_CHOKED, REJECT_NOT_HELD, REJECT_TOO_LARGE, 200]),
    )
    @precondition(lambda self: self.requests)
    def peer_rejects(self, data: st.DataObject, code: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.requests)))
        span, _ = self.requests.pop(key)
        if code == REJECT_NOT_HELD:
            for page, entry in set(_chunks(span)) - self.held:
                self.told[key[0]].get(page, set()).discard(entry)
        if code == REJECT_CHOKED:
            self.unchoked.discard(key[0])
        self.download.on_reject(*key, code, self.now)
        self.act()

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def channel_breaks(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.requests)))
        self.closed[key] = self.requests.pop(key)
        self.download.on_failed(*key, self.now)
        self.act()

    @rule(data=st.data())
    @precondition(lambda self: self.requests)
    def peer_lies(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.requests)))
        self.banned.add(key[0])
        self.download.on_wrong_bytes(*key, self.now)
        dropped = self.act()
        assert DropPeer(key[0], DropReason.WRONG_BYTES) in dropped
        assert key[0] not in self.told

    @rule(data=st.data())
    @precondition(lambda self: self.closed)
    def chunks_come_late(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.closed)))
        span, verified = self.closed[key]
        count = data.draw(st.integers(verified, span.chunk_count))
        self.held |= set(_chunks(span)[verified:count])
        self.closed[key] = (span, max(count, verified))
        if count == span.chunk_count:
            self.download.on_done(*key, self.now)
        else:
            self.download.on_progress(*key, count, self.now)
        self.act()

    @rule(peer=st.sampled_from(PEERS), request_id=st.integers(0, 60))
    def late_events_do_no_harm(self, peer: str, request_id: int) -> None:
        if (peer, request_id) in self.requests:
            return
        if (peer, request_id) not in self.closed:
            self.download.on_progress(peer, request_id, 1, self.now)
            self.download.on_done(peer, request_id, self.now)
        self.download.on_stopped(peer, request_id, 0, self.now)
        self.download.on_reject(peer, request_id, REJECT_NOT_HELD, self.now)
        self.download.on_failed(peer, request_id, self.now)
        self.act()

    # ---- carrying out --------------------------------------------------------------------------

    def deliver(self, key: tuple[str, int], count: int) -> None:
        span, verified = self.requests[key]
        self.held |= set(_chunks(span)[verified:count])
        self.requests[key] = (span, max(count, verified))
        self.download.on_progress(*key, count, self.now)

    def finish(self, key: tuple[str, int]) -> None:
        span, _ = self.requests.pop(key)
        self.held |= set(_chunks(span))
        self.download.on_done(*key, self.now)

    def forget(self, peer: str) -> None:
        self.told.pop(peer, None)
        self.asked.pop(peer, None)
        self.unchoked.discard(peer)
        for key in [key for key in self.requests if key[0] == peer]:
            self.closed[key] = self.requests.pop(key)

    def act(self) -> list[DropPeer]:
        dropped = []
        for action in self.download.next_actions(self.now):
            match action:
                case AskPages(peer, pages):
                    assert peer in self.told
                    assert not self.asked[peer] & set(pages), "a page was asked about twice"
                    self.asked[peer] |= set(pages)
                case SendRequest(peer, request_id, span):
                    self.check_request(peer, span)
                    assert (peer, request_id) not in self.requests
                    self.requests[peer, request_id] = (span, 0)
                case SendCancel(peer, request_id):
                    if (peer, request_id) in self.requests:
                        self.closed[peer, request_id] = self.requests.pop((peer, request_id))
                case DropPeer(peer):
                    dropped.append(action)
                    self.forget(peer)
        return dropped

    def check_request(self, peer: str, span: Span) -> None:
        chunks = _chunks(span)
        assert 0 < len(span.runs) <= RUNS_PER_SPAN_MAX
        assert len(chunks) == span.chunk_count == len(set(chunks))
        assert span.size_bytes == sum(self.lengths[page][entry] for page, entry in chunks)
        assert not set(chunks) & self.held, "a chunk was requested that is held"
        for page, entry in chunks:
            assert entry in self.told[peer].get(page, ()), "a peer was asked for what it lacks"
            assert self.lengths[page][entry]
        assert peer in self.unchoked, "a peer was asked that chokes us"

    # ---- what must hold at all times -----------------------------------------------------------

    @invariant()
    def progress_is_true_and_only_grows(self) -> None:
        if not hasattr(self, "download"):
            return
        statistics = self.download.statistics(self.now)
        verified = sum(self.lengths[page][entry] for page, entry in self.held)
        assert statistics.verified_bytes == verified >= self.last_verified
        self.last_verified = verified

    @invariant()
    def no_span_is_lost_and_few_are_asked_twice(self) -> None:
        if not hasattr(self, "download"):
            return
        in_flight: dict[Chunk, int] = {}
        for span, verified in self.requests.values():
            for chunk in _chunks(span)[verified:]:
                in_flight[chunk] = in_flight.get(chunk, 0) + 1
        assert max(in_flight.values(), default=0) <= 2
        planner, picker = self.download._planner, self.download._picker
        for index in range(len(planner)):
            is_open = bool(picker.open >> index & 1)
            asked = self.download._in_flight.of(index)
            assert planner.is_span_complete(index) == (not is_open and not asked)
            assert not (is_open and asked)

    @invariant()
    def rarity_is_what_a_slow_count_says(self) -> None:
        if not hasattr(self, "download"):
            return
        planner = self.download._planner
        for index in range(len(planner)):
            chunks = [
                (planner.pages[n].digest, e)
                for n, s in planner.pieces(index)
                for e in bitsets.iterate(s)
            ]
            holders = sum(
                bool(chunks) and all(e in pages.get(p, ()) for p, e in chunks)
                for pages in self.told.values()
            )
            if chunks:
                # What became whole because other chunks arrived is seen when the span is open
                # again.
                assert self.download._availability.rarity.count(index) <= holders
                if index not in self.download._in_flight.by_span:
                    assert self.download._availability.rarity.count(index) == holders

    def teardown(self) -> None:
        """Whatever happened: with one honest peer that holds everything it completes."""
        if not hasattr(self, "download"):
            return
        while self.unknown_pages:
            page = self.unknown_pages.pop(0)
            self.download.on_page(page, self.lengths[page], b"")
        if not self.is_told:
            self.download.on_pages_complete()
        self.download.on_peer(HONEST, self.now)
        self.download.on_unchoke(HONEST, self.now)
        self.told[HONEST], self.asked[HONEST] = {}, set()
        self.unchoked.add(HONEST)
        answered: set[bytes] = set()
        end = self.now + 3600.0
        while not self.download.is_complete:
            self.act()
            for page in sorted(self.asked[HONEST] - answered):
                answered.add(page)
                count = len(self.lengths[page])
                self.told[HONEST][page] = set(range(count))
                self.download.on_have(
                    HONEST, page, bitsets.to_wire((1 << count) - 1, count), self.now
                )
                self.act()
            mine = [key for key in self.requests if key[0] == HONEST]
            if mine:
                self.now += 0.01
                self.finish(mine[0])
            else:
                deadline = self.download.next_deadline()
                assert self.download.is_complete or deadline is not None, (
                    "nothing is asked and nobody waits"
                )
                self.now = max(self.now, deadline or self.now)
            assert self.now < end, (
                "an honest peer holds everything, and the download does not complete"
            )
        self.progress_is_true_and_only_grows()
        assert self.download.statistics(self.now).eta_s == 0.0


def _chunks(span: Span) -> list[Chunk]:
    return [(run.page, entry) for run in span.runs for entry in range(run.start, run.stop)]


TestDownload = DownloadMachine.TestCase
TestDownload.settings = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
