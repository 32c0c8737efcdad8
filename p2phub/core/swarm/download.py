"""One download: which chunks are asked of whom, and when. A machine over `now`; the node carries out what it says.

Signatures first; the body follows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from p2phub.core.swarm.actions import DownloadAction, Peer
from p2phub.digest import Digest
from p2phub.proto.messages import Run


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What is known of one peer of a download."""

    peer: Peer
    is_local: bool
    is_choked: bool  # it gives us no slot now
    is_snubbed: bool  # it was silent and is tried again later
    rate_bytes_per_s: float  # verified bytes, recent
    delay_s: float | None  # from request to first chunk when nothing was queued; None: not measured yet
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
    liars: tuple[Peer, ...]  # sent wrong bytes


class Download:
    """The chunks of one manifest, object, or subset of files.

    size_bytes: data bytes expected in all (decides the spans' size). request_ids: where ids of requests come from; share one
    iterator among all downloads that use the same session.
    """

    def __init__(self, size_bytes: int, rng: random.Random, request_ids: Iterator[int] | None = None) -> None: ...

    # ---- what is to be fetched -----------------------------------------------------------------------------------------
    def on_page(self, page: Digest, lengths: Sequence[int], held: bytes) -> None:
        """A page became known, in manifest order: a file page, then the segments of its files.

        lengths: bytes per entry; 0 for what is no data or not wanted (empty file, file with a record, file left out).
        held: have-bits as on the wire. A page told twice is ignored.
        """

    def on_pages_complete(self) -> None:
        """No more pages will come: the last span is closed, and the download can become complete."""

    def on_held(self, page: Digest, entries: Sequence[int]) -> None:
        """Entries were verified without this machine: reused from the disk, or fetched by digest."""

    def want_first(self, page: Digest, start: int, stop: int, deadline: float | None = None) -> None:
        """A reader waits for entries [start, stop) of a page; with a deadline they come before all else."""

    # ---- peers ---------------------------------------------------------------------------------------------------------
    def on_peer(self, peer: Peer, now: float, *, is_local: bool = False, requests_max: int = 64) -> None:
        """A session is open; the peer chokes us until it says otherwise."""

    def on_peer_gone(self, peer: Peer, now: float) -> None: ...
    def on_have(self, peer: Peer, page: Digest, bits: bytes, now: float) -> None: ...
    def on_have_delta(self, peer: Peer, page: Digest, entries: Sequence[int], now: float) -> None: ...
    def on_choke(self, peer: Peer, now: float) -> None: ...
    def on_unchoke(self, peer: Peer, now: float) -> None: ...
    def on_offer(self, peer: Peer, run: Run, now: float) -> None: ...

    # ---- requests ------------------------------------------------------------------------------------------------------
    def on_progress(self, peer: Peer, request_id: int, chunk_count: int, now: float) -> None:
        """The first `chunk_count` chunks of a request (in all, not since the last word) are verified and written."""

    def on_done(self, peer: Peer, request_id: int, now: float) -> None:
        """All chunks of a request are verified and written."""

    def on_stopped(self, peer: Peer, request_id: int, first_missing: int, now: float) -> None:
        """The peer lacks chunk `first_missing` of a request and sends no more of it (or its channel broke: see on_failed)."""

    def on_failed(self, peer: Peer, request_id: int, now: float) -> None:
        """A request came to nothing and nobody is to blame: its channel broke, or the disk was busy. It is asked again."""

    def on_reject(self, peer: Peer, request_id: int, code: int, now: float) -> None: ...
    def on_wrong_bytes(self, peer: Peer, request_id: int, now: float) -> None:
        """A chunk of this request did not match its name: the peer is dropped and banned for this download."""

    # ---- what to do ----------------------------------------------------------------------------------------------------
    def next_actions(self, now: float) -> list[DownloadAction]:
        """What to do now, in order. Call after events and when `next_deadline` has passed."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """When `next_actions` must be called even if nothing happens; None: no need."""
        raise NotImplementedError

    @property
    def is_complete(self) -> bool:
        """All pages are known and nothing of them is missing."""
        raise NotImplementedError

    def statistics(self, now: float) -> DownloadStatistics:
        raise NotImplementedError
