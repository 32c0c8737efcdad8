"""One simulated node: the daemon's `Download`, `Uploads` and `Offers`, carried out over a link.

It does what p2phub.node does: hands events to the machines, carries out their actions, and calls
the machines in batches. Messages take the link's delay; chunks take the link.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.actions import (
    AskPages,
    DropPeer,
    SendCancel,
    SendChoke,
    SendReject,
    SendRequest,
    SendUnchoke,
    StartUpload,
    StopUpload,
)
from p2phub.core.swarm.download import Download
from p2phub.core.swarm.offers import Offers
from p2phub.core.swarm.spans import Span
from p2phub.core.swarm.uploads import Uploads
from p2phub.digest import Digest
from p2phub.proto.messages import Run
from simulations.content import Content
from simulations.engine import Engine
from simulations.links import Link, Parcel
from simulations.loop import Loop
from simulations.watching import Delta, Watching


class Conduct(Enum):
    """How a peer behaves as an uploader."""

    HONEST = "honest"
    LIAR = "liar"  # every chunk it sends is wrong
    SILENT = "silent"  # it accepts requests and sends nothing
    FREE_RIDER = "free rider"  # it never gives a slot


class SimulatedPeer:
    """A node with one release, whole (a seed) or to be downloaded."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        link: Link,
        content: Content,
        rng: random.Random,
        *,
        span_bytes: int | None = None,
        is_seed: bool = False,
        conduct: Conduct = Conduct.HONEST,
        on_downloaded: Callable[[SimulatedPeer], None] = lambda peer: None,
        on_uploaded: Callable[[SimulatedPeer], None] = lambda peer: None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.link = link
        self.content = content
        self.is_seed = is_seed
        self.conduct = conduct
        self.is_gone = False
        self.completed_at: float | None = 0.0 if is_seed else None
        self.held: dict[Digest, int] = {}  # the truth: chunks that arrived right
        self.held_bytes = 0
        self.neighbours: dict[str, SimulatedPeer] = {}
        self.requests: dict[tuple[str, int], Span] = {}  # in flight, as this peer knows
        self._on_downloaded = on_downloaded  # called after each step of a machine
        self._on_uploaded = on_uploaded
        self.asked_now: list[tuple[str, int]] = []  # the requests of this step
        self.served: set[str] = set()  # who was given an upload slot
        self.watching = Watching(name, engine, link, content.pages)
        # What was started, by peer and id.
        self._uploading: dict[str, dict[int, list[tuple[Digest, int]]]] = {}
        size_bytes = content.size_bytes
        self.download = Download(size_bytes, rng, span_bytes=span_bytes)
        self.news: list[Delta] = []  # that the machine didn't hear yet
        self.givers: set[str] = set()  # who gives this peer a slot
        self.uploads = Uploads(rng)
        self.offers = Offers(name, size_bytes, span_bytes) if is_seed else None
        for page, lengths in content.pages.items():
            everything = bitsets.interval(0, len(lengths))
            self.held[page] = everything if is_seed else 0
            self.download.on_page(page, lengths, bitsets.to_wire(self.held[page], len(lengths)))
            if self.offers is not None:
                self.offers.on_page(page, lengths)
        self.download.on_pages_complete()
        if self.offers is not None:
            self.offers.on_pages_complete()
        self.held_bytes = size_bytes if is_seed else 0
        self._downloading = Loop(engine, self._download_step, self.download.next_deadline)
        self._serving = Loop(engine, self._upload_step, self._next_upload_deadline)

    def _hear_news(self) -> None:
        """Hand the news to the machine: late is early enough, see `on_have_delta`."""
        news, self.news = self.news, []
        hear, now = self.download.on_have_delta, self.engine.now
        for name, page, entries in news:
            hear(name, page, entries, now)

    # ---- sessions ------------------------------------------------------------------------------

    def connect(self, other: SimulatedPeer) -> None:
        """Sessions both ways between two peers."""
        for one, two in ((self, other), (other, self)):
            if two.name in one.neighbours:
                return
            one.neighbours[two.name] = two
            if not one.is_seed:
                one.download.on_peer(two.name, self.engine.now)
            two.uploads.on_peer(one.name, self.engine.now)
        for one, two in ((self, other), (other, self)):
            if one.offers is not None:
                one.offers.on_peer(two.name, self.engine.now)
                one.tell(two, two.on_ask, one, tuple(self.content.pages))
            one._downloading.soon()
            one._serving.soon()

    def leave(self) -> None:
        """Go away for good."""
        self.is_gone = True
        for other in list(self.neighbours.values()):
            self.part(other)

    def part(self, other: SimulatedPeer) -> None:
        """End the sessions of two peers; both notice at once."""
        self.on_gone(other.name)
        other.on_gone(self.name)

    def on_gone(self, name: str) -> None:
        if self.neighbours.pop(name, None) is None:
            return
        self.download.on_peer_gone(name, self.engine.now)
        self.uploads.on_peer_gone(name, self.engine.now)
        if self.offers is not None:
            self.offers.on_peer_gone(name, self.engine.now)
        self.watching.forget(name)
        self.served.discard(name)
        self.givers.discard(name)
        for key in [key for key in self.requests if key[0] == name]:
            del self.requests[key]
        self._uploading.pop(name, None)
        self._downloading.soon()
        self._serving.soon()

    def on_session_over(self, name: str) -> None:
        """A neighbour downloads no more; what it has it still gives."""
        self.uploads.on_peer_gone(name, self.engine.now)
        self.served.discard(name)
        self.watching.forget(name)
        self._uploading.pop(name, None)
        self._serving.soon()

    def tell(self, other: SimulatedPeer, hear: Callable[..., None], *arguments: object) -> None:
        """A message: `hear` is called at the other end after the delay, if both are still
        connected.
        """
        engine = self.engine
        engine.at(engine.now + other.link.delay_s, self._deliver, other, hear, arguments)

    def _deliver(
        self, other: SimulatedPeer, hear: Callable[..., None], arguments: tuple[object, ...]
    ) -> None:
        if self.name in other.neighbours:
            hear(*arguments)

    # ---- messages ------------------------------------------------------------------------------

    def on_ask(self, asker: SimulatedPeer, pages: tuple[Digest, ...]) -> None:
        self.watching.on_ask(asker, pages)
        if self.offers is not None and not asker.is_seed:
            self.offers.on_ask(asker.name, pages)
        for page in pages:
            count = len(self.content.pages[page])
            self.tell(
                asker, asker.on_have, self.name, page, bitsets.to_wire(self.held[page], count)
            )

    def on_have(self, name: str, page: Digest, bits: bytes) -> None:
        if self.offers is not None:
            self.offers.on_have(name, page, bits, self.engine.now)
            self._serving.soon()
        else:
            self.download.on_have(name, page, bits, self.engine.now)
            self._downloading.soon()

    def on_have_delta(self, delta: Delta) -> None:
        if self.offers is not None:
            self.offers.on_have_delta(*delta, self.engine.now)
            self._serving.soon()
        elif self.download.on_have_delta(*delta, self.engine.now):
            self._downloading.soon()

    def on_request(self, name: str, request_id: int, span: Span) -> None:
        for run in span.runs:
            wanted = bitsets.interval(run.start, run.stop)
            assert self.held[run.page] & wanted == wanted, "a peer was asked for what it lacks"
        if self.conduct is not Conduct.SILENT:
            self.uploads.on_request(name, request_id, span.runs, span.size_bytes, self.engine.now)
            if self.offers is not None:
                self.offers.on_request(name, span.runs, self.engine.now)
            self._serving.soon()

    def on_cancel(self, name: str, request_id: int) -> None:
        self.uploads.on_cancel(name, request_id, self.engine.now)
        self._serving.soon()

    def on_reject(self, name: str, request_id: int, code: int) -> None:
        self.requests.pop((name, request_id), None)
        self.download.on_reject(name, request_id, code, self.engine.now)
        self._downloading.soon()

    def on_choke(self, name: str) -> None:
        self.givers.discard(name)
        self.download.on_choke(name, self.engine.now)

    def on_unchoke(self, name: str) -> None:
        self.givers.add(name)
        self.download.on_unchoke(name, self.engine.now)
        self._downloading.soon()

    def on_offer(self, name: str, run: Run) -> None:
        self.download.on_offer(name, run, self.engine.now)
        self._downloading.soon()

    # ---- chunks --------------------------------------------------------------------------------

    def _start_upload(self, name: str, request_id: int, runs: tuple[Run, ...]) -> None:
        queue = self._uploading.setdefault(name, {})
        queue[request_id] = [
            (run.page, entry) for run in runs for entry in range(run.start, run.stop)
        ]
        if len(queue) == 1:
            self._send_chunk(name, request_id, 0)

    def _stop_upload(self, name: str, request_id: int) -> None:
        queue = self._uploading.get(name, {})
        is_head = next(iter(queue), None) == request_id
        queue.pop(request_id, None)
        if is_head and queue and not self.link.is_queued(name):
            self._send_chunk(name, next(iter(queue)), 0)

    def _send_chunk(self, name: str, request_id: int, position: int) -> None:
        """Queue one chunk; what follows is decided when it is out, so that a stop takes effect at
        once.
        """
        other = self.neighbours[name]
        page, entry = self._uploading[name][request_id][position]
        size_bytes = self.content.pages[page][entry]

        def arrive() -> None:
            other.on_chunk(self, request_id, position, page, entry)

        def sent() -> None:
            self._on_chunk_sent(name, request_id, position + 1, size_bytes)

        self.link.send(name, Parcel(other.link, size_bytes, arrive, sent))

    def _on_chunk_sent(self, name: str, request_id: int, position: int, size_bytes: int) -> None:
        queue = self._uploading.get(name)
        if queue is None:
            return  # the peer is gone
        self.uploads.on_sent(name, size_bytes, self.engine.now)
        if self.offers is not None:
            self.offers.on_sent(name, size_bytes, self.engine.now)
        if request_id in queue:
            if position < len(queue[request_id]):
                self._send_chunk(name, request_id, position)
                return
            del queue[request_id]
            self.uploads.on_upload_done(name, request_id, self.engine.now)
            self._serving.look()
        if queue:
            self._send_chunk(name, next(iter(queue)), 0)

    def on_chunk(
        self, sender: SimulatedPeer, request_id: int, position: int, page: Digest, entry: int
    ) -> None:
        """A chunk has arrived: verify it, as the store does, and tell the machine."""
        key = (sender.name, request_id)
        span = self.requests.get(key)
        if span is None:
            return  # cancelled: discarded unread
        now = self.engine.now
        if sender.conduct is Conduct.LIAR:
            self.engine.record(self.name, "lied to by", sender.name)
            self.download.on_wrong_bytes(*key, now)
            self._downloading.soon()
            return
        if not self.held[page] >> entry & 1:
            self.held[page] |= 1 << entry
            self.held_bytes += span.lengths[position]
            self.watching.on_held(page, entry)
        self.uploads.on_received(sender.name, span.lengths[position], now)
        if position + 1 == span.chunk_count:
            del self.requests[key]
            self.download.on_done(*key, now)
        else:
            self.download.on_progress(*key, position + 1, now)
        self._downloading.soon()

    # ---- carrying out --------------------------------------------------------------------------

    def _download_step(self) -> None:
        now = self.engine.now
        self.asked_now.clear()
        if self.is_seed:
            return
        self._hear_news()
        for action in self.download.next_actions(now):
            match action:
                case SendRequest(name, request_id, span):
                    self.requests[name, request_id] = span
                    self.asked_now.append((name, request_id))
                    self._send(name, "on_request", request_id, span)
                case SendCancel(name, request_id):
                    self.requests.pop((name, request_id), None)
                    self._send(name, "on_cancel", request_id)
                case AskPages(name, pages):
                    other = self.neighbours[name]
                    self.tell(other, other.on_ask, self, pages)
                case DropPeer(name, reason):
                    self.engine.record(self.name, "drops", name, reason.name)
                    self.neighbours[name].on_gone(self.name)
                    self.on_gone(name)
        if self.completed_at is None and self.download.is_complete:
            self.completed_at = now
            self.engine.record(self.name, "complete")
            for other in self.neighbours.values():  # the sessions it downloaded by
                self.tell(other, other.on_session_over, self.name)
        self._on_downloaded(self)

    def _upload_step(self) -> None:
        now = self.engine.now
        for upload in self.uploads.next_actions(now):
            match upload:
                case StartUpload(name, request_id, runs):
                    self._start_upload(name, request_id, runs)
                case StopUpload(name, request_id):
                    self._stop_upload(name, request_id)
                case SendUnchoke(name):
                    self.served.add(name)
                    if self.conduct is not Conduct.FREE_RIDER:
                        self._send(name, "on_unchoke")
                case SendChoke(name):
                    self.served.discard(name)
                    self._send(name, "on_choke")
                case SendReject(name, request_id, code):
                    self._send(name, "on_reject", request_id, code)
        if self.offers is not None:
            for offer in self.offers.next_actions(now, self.uploads.served_max):
                self._send(offer.peer, "on_offer", offer.run)
            self.uploads.withhold(self.offers.withheld, now)
        self._on_uploaded(self)

    def _next_upload_deadline(self) -> float | None:
        due = self.uploads.next_deadline()
        if self.offers is None:
            return due
        times = [time for time in (due, self.offers.next_deadline()) if time is not None]
        return min(times, default=None)

    def _send(self, name: str, kind: str, *arguments: object) -> None:
        request_id = arguments[0] if arguments and isinstance(arguments[0], int) else None
        self.engine.record(self.name, kind, name, request_id)
        other = self.neighbours.get(name)
        if other is not None:
            self.tell(other, getattr(other, kind), self.name, *arguments)
