"""A live connection to one peer, its streams as protocols see them, and what answers a protocol."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import trio

from p2phub.errors import StreamClosed
from p2phub.net.addresses import Endpoint, gives_way, network_of
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
    def remote_host(self) -> str:
        return self._connection.remote.host


@dataclass(eq=False, slots=True)
class Served:
    """What answers a protocol, and the streams on which it does so now."""

    on_stream: OnStream
    streams_per_peer_max: int
    streams_max: int | None = None  # over all peers
    streams: dict[trio.CancelScope, str] = field(default_factory=dict)  # with the remote IP

    async def serve(self, stream: PeerStream) -> None:
        """Answer on one more stream. Raises StreamClosed if there is no place, or no more.

        Where there are as many as may be, the network that has most of them loses its oldest to
        one that has two fewer: streams that say nothing shall keep nobody out.
        """
        if self.streams_max is not None and len(self.streams) >= self.streams_max:
            self._make_place(stream.remote_host)
        scope = trio.CancelScope()
        self.streams[scope] = stream.remote_host
        try:
            with scope:
                await self.on_stream(stream)
                return
        finally:
            self.streams.pop(scope, None)
        raise StreamClosed("its network has more streams of this protocol than others")

    def _make_place(self, host: str) -> None:
        network = gives_way(self.streams.values(), host)
        if network is None:
            raise StreamClosed("too many streams of this protocol")
        oldest = next(key for key, held in self.streams.items() if network_of(held) == network)
        del self.streams[oldest]
        oldest.cancel()
