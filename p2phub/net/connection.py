"""A live connection to one peer, its streams as protocols see them, and what answers a protocol."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from p2phub.net.addresses import Endpoint
from p2phub.net.base import OnStream, PeerId, PeerStatus
from p2phub.net.yamux import Yamux
from p2phub.net.yamux_stream import YamuxStream


@dataclass(eq=False, slots=True)
class Connection:
    """One live, authenticated connection."""

    peer: PeerId
    remote: Endpoint
    is_outbound: bool
    yamux: Yamux
    since_s: float
    used_s: float  # when a stream was last opened or ended
    serving: Counter[str] = field(default_factory=Counter)  # inbound streams by protocol

    @property
    def is_live(self) -> bool:
        """Whether it carries frames; one that has ended stays in the table for a moment more."""
        return not self.yamux.ended.is_set()

    def status(self) -> PeerStatus:
        return PeerStatus(self.peer, str(self.remote), self.is_outbound, self.since_s)


class PeerStream:
    """A yamux stream with the peer at its other end: what protocols are written against."""

    def __init__(self, stream: YamuxStream, connection: Connection) -> None:
        self._connection = connection
        self.send = stream.send
        self.receive = stream.receive
        self.receive_exactly = stream.receive_exactly
        self.close = stream.close
        self.reset = stream.reset
        self.abort = stream.abort
        self.drain = stream.drain

    @property
    def peer(self) -> PeerId:
        return self._connection.peer

    @property
    def remote_host(self) -> str | None:
        return self._connection.remote.host


@dataclass(frozen=True, slots=True)
class Served:
    """What answers a protocol."""

    on_stream: OnStream
    streams_per_peer_max: int
    streams_max: int | None = None  # over all peers
