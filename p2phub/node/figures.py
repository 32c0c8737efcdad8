"""What a node says of itself, of its peers and its doings: part of `NodeApi`, under its rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from p2phub.node.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityView:
    """Who this node is on the network. A peer id never signs releases."""

    peer_id: str
    addresses: tuple[str, ...]  # with /p2p/<id>
    agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """One connected peer."""

    peer_id: str
    addresses: tuple[str, ...]
    direction: str  # "in" or "out"
    received_bytes: int
    sent_bytes: int
    down_bytes_per_s: float
    downloads: int  # from it, running now


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something the user should know that no command asked for: an adopted file that changed, a
    release withdrawn, a liar."""

    time: float  # seconds since the epoch
    kind: str  # an error's kind, or one word
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One download that is running now."""

    reference: str
    content_id: str
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """The state of a running node."""

    peer_id: str
    addresses: tuple[str, ...]
    uptime_s: float
    peers: int
    routing_table: int  # peers in the DHT's table
    releases: int
    stored_bytes: int  # on the disk, adopted files not counted
    received_bytes: int
    sent_bytes: int
    announcements_queued: int
    announcements_held: int  # keys that at least one peer confirmed
    transfers: tuple[Transfer, ...]
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One counter or gauge."""

    name: str  # without the prefix p2phub_
    help: str
    type: Literal["counter", "gauge"]
    value: float
    labels: Mapping[str, str]
