"""Answers the streams that peers open: by protocol, of each peer no more at once than it allows."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from p2phub.errors import P2phubError, StreamClosed
from p2phub.net.connection import Connection, PeerStream, Served
from p2phub.net.connection_table import ConnectionTable
from p2phub.net.multistream import answer
from p2phub.net.yamux_stream import YamuxStream

NEGOTIATE_TIMEOUT_S = 10.0  # the first line on a stream
CLOSE_LINGER_S = 10.0  # after our last byte on a stream, for the peer's end of it

log = logging.getLogger(__name__)


class StreamServer:
    """The protocols of one node. on_fault: told of a bug of ours, met while serving a peer."""

    def __init__(
        self, connections: ConnectionTable, on_fault: Callable[[Connection], None]
    ) -> None:
        self._connections = connections
        self._on_fault = on_fault
        self.served: dict[str, Served] = {}

    async def serve(self, connection: Connection, stream: YamuxStream) -> None:
        """One inbound stream, from its first line to its end; whatever happens ends this stream or
        peer alone.
        """
        connection.used_s = trio.current_time()
        try:
            with trio.move_on_after(NEGOTIATE_TIMEOUT_S) as first_line:
                protocol = await answer(stream, self.served)
            if first_line.cancelled_caught:
                stream.abort("no protocol was named in time")
                return
            await self._serve_protocol(connection, stream, protocol)
        except P2phubError as error:
            log.debug("%s: %s", connection.peer, error)
            stream.abort()
        except Exception as error:
            if is_peer_fault(error):
                log.debug("%s: %s", connection.peer, error)
                stream.abort()
            else:
                self._on_fault(connection)
        except BaseException:
            stream.abort()
            raise
        finally:
            connection.used_s = trio.current_time()

    async def _serve_protocol(
        self, connection: Connection, stream: YamuxStream, protocol: str
    ) -> None:
        served = self.served[protocol]
        by_peer = sum(other.serving[protocol] for other in self._connections.of(connection.peer))
        if by_peer >= served.streams_per_peer_max:
            stream.abort("too many streams of this protocol")
            return
        connection.serving[protocol] += 1
        try:
            await served.serve(PeerStream(stream, connection))
        finally:
            connection.serving[protocol] -= 1
        await stream.close()
        with trio.move_on_after(CLOSE_LINGER_S) as linger:
            await stream.drain()
        if linger.cancelled_caught:
            stream.abort("the peer left its side open")


def is_peer_fault(error: Exception) -> bool:
    """Whether a group of errors, from a nursery in a protocol's task, holds peers' faults only."""
    return isinstance(error, ExceptionGroup) and error.split((P2phubError, StreamClosed))[1] is None
