"""Every live connection of this node: accepted, dialled, bounded, given back when it ends.

A connection is TCP, Noise and yamux. What a protocol does on its streams is not known here.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

import trio

from p2phub.errors import (
    NetworkError,
    P2phubError,
    PeerUnreachable,
    ProtocolViolation,
)
from p2phub.net.addresses import (
    Endpoint,
    endpoint_from_socket,
    expand_wildcard,
    is_own_machine,
    network_of,
)
from p2phub.net.base import PeerId
from p2phub.net.connection import Connection, PeerStream, Served
from p2phub.net.connection_table import ConnectionTable
from p2phub.net.dial import connect_tcp, first_to_answer
from p2phub.net.identity import Identity
from p2phub.net.listen import bind
from p2phub.net.multistream import answer, propose
from p2phub.net.secure import MessageStream, SecureChannel, Security, Socket
from p2phub.net.stream_server import StreamServer, is_peer_fault
from p2phub.net.yamux import PROTOCOL as YAMUX
from p2phub.net.yamux import Yamux
from p2phub.net.yamux_stream import YamuxStream
from p2phub.proto.limits import (
    CONNECTIONS_INBOUND_MAX,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_MAX,
    HANDSHAKES_PENDING_MAX,
    HANDSHAKES_PER_HOST_MAX,
    NETWORK_BUFFERED_BYTES_MAX,
)

HANDSHAKE_TIMEOUT_S = 8.0  # inbound: three round trips and a slow processor
SILENCE_S = 4.0  # after a question, without a single byte: the peer is not there any more
FRESH_S = 5.0  # a few round trips until the first stream
IDLE_S = 300.0  # without any stream: beyond it a connection makes room for others
_SWEEP_S = 60.0
_ACCEPT_PAUSE_S = 0.1  # out of file descriptors: others must end before we can go on
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger(__name__)


class Swarm:
    """The connections of one node, and the tasks that serve them."""

    def __init__(
        self,
        identity: Identity,
        listen: list[Endpoint],
        *,
        on_connected: Callable[[Connection], None],
    ) -> None:
        """on_connected: told of each new connection; it may start tasks through `start_soon`, not
        wait.
        """
        self.peer_id = identity.peer_id
        self._security = Security(identity)
        self._listen = listen
        self._on_connected = on_connected
        self.connections = ConnectionTable()
        self._streams = StreamServer(self.connections, self._on_fault)
        # Inbound, by the network of the remote IP, oldest first.
        self._handshakes: dict[trio.CancelScope, str] = {}
        self._dials: dict[PeerId, trio.Event] = {}
        self._nursery: trio.Nursery | None = None
        self._unread_bytes = 0
        self.unread_bytes_max = NETWORK_BUFFERED_BYTES_MAX
        self.inbound_max = CONNECTIONS_INBOUND_MAX
        self.listening: list[Endpoint] = []  # bound, with real ports; wildcards as given
        self.faults_count = 0

    # -- life ----------------------------------------------------------------------------------

    def serve(self, protocol: str, served: Served) -> None:
        assert self._nursery is None, "protocols are served before run(): peers hear of them once"
        assert protocol not in self._streams.served, f"{protocol} is served twice"
        self._streams.served[protocol] = served

    @property
    def protocols(self) -> list[str]:
        return list(self._streams.served)

    async def run(
        self,
        beside: Callable[[], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen and serve until cancelled, and run `beside` all the while. Raises PortInUse."""
        listeners = self._bind()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                nursery.start_soon(self._sweep)
                nursery.start_soon(beside)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # from now on nothing begins
        finally:
            for listener in listeners:
                listener.close()
            for connection in self.connections.live():
                connection.yamux.end("this node stops")

    def start_soon(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Run something as long as this swarm does. Raises NetworkError when it does not run."""
        if self._nursery is None:
            raise NetworkError("the network is not running")
        self._nursery.start_soon(task, *arguments)

    def _bind(self) -> list[trio.socket.SocketType]:
        """One listening socket per address, none of which may be shared with another program."""
        listeners: list[trio.socket.SocketType] = []
        try:
            for endpoint in self._listen:
                listeners.append(bind(endpoint))
        except BaseException:
            for listener in listeners:
                listener.close()
            raise
        bound = zip(self._listen, listeners, strict=True)
        self.listening = [
            Endpoint(asked.kind, asked.host, got.getsockname()[1]) for asked, got in bound
        ]
        return listeners

    def endpoints(self) -> list[Endpoint]:
        """Where others may dial us, wildcards expanded now, as interfaces come and go."""
        return list(
            dict.fromkeys(
                found for endpoint in self.listening for found in expand_wildcard(endpoint)
            )
        )

    async def disconnect(self, peer: PeerId) -> None:
        for connection in self.connections.of(peer):
            await connection.yamux.close()
            self.connections.remove(connection)

    # -- streams -------------------------------------------------------------------------------

    async def open(self, connection: Connection, protocol: str) -> PeerStream:
        """A stream on this connection. Raises StreamClosed, ProtocolRefused, ProtocolViolation."""
        stream = await connection.yamux.open()
        begun_s = connection.used_s = trio.current_time()
        try:
            await propose(stream, protocol)
        except BaseException:
            stream.abort()
            is_silent = connection.yamux.heard_s < begun_s
            if is_silent and trio.current_time() - begun_s >= SILENCE_S:
                # A machine that vanished says no goodbye: the next caller shall dial anew.
                connection.yamux.end("the peer fell silent")
            raise
        return PeerStream(stream, connection)

    def _on_fault(self, connection: Connection) -> None:
        """A bug of ours, met while serving this peer: it loses its connection, nobody else does."""
        self.count_fault(connection.peer)
        connection.yamux.end("a task that served the connection failed")

    def count_fault(self, peer: PeerId) -> None:
        """Report the exception being handled, a bug of ours that only this peer may suffer from."""
        self.faults_count += 1
        log.exception("a task that dealt with %s failed", peer)

    # -- dialling ------------------------------------------------------------------------------

    async def dial(self, peer: PeerId, addresses: tuple[str, ...]) -> Connection:
        """A connection with `peer`, the live one if there is one. Raises PeerUnreachable.

        Two callers who want the same peer share one attempt.
        """
        if peer == self.peer_id:
            raise PeerUnreachable("this is our own address", peer=peer)
        while True:
            connection = self.connections.newest(peer)
            if connection is not None:
                return connection
            underway = self._dials.get(peer)
            if underway is None:
                return await self._dial(peer, addresses)
            await underway.wait()

    async def _dial(self, peer: PeerId, addresses: tuple[str, ...]) -> Connection:
        is_full = len(self.connections.live()) >= CONNECTIONS_MAX
        if is_full and not self._make_room(is_inbound_only=False):
            raise PeerUnreachable("all connections are in use", peer=peer)
        done = self._dials[peer] = trio.Event()

        async def attempt(endpoint: Endpoint) -> Connection:
            return await self._shake_outbound(peer, endpoint)

        def discard(connection: Connection) -> None:
            connection.yamux.end("another address was quicker")

        try:
            found, failures = await first_to_answer(addresses, attempt, discard)
            if not found:
                detail = "; ".join(f"{address}: {reason}" for address, reason in failures.items())
                raise PeerUnreachable(
                    f"{peer} could not be reached: {detail or 'no address is known'}",
                    peer=peer,
                    failures=failures,
                )
            self._add(found[0])
            return found[0]
        finally:
            del self._dials[peer]
            done.set()

    async def _shake_outbound(self, peer: PeerId, endpoint: Endpoint) -> Connection:
        wire = Socket(await connect_tcp(endpoint))
        try:
            channel = await self._security.secure_outbound(wire, peer)
            messages = MessageStream(channel)
            await propose(messages, YAMUX)
            return self._connection_of(channel, endpoint, messages.rest, is_outbound=True)
        except BaseException:
            wire.close_now()
            raise

    # -- accepting -----------------------------------------------------------------------------

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                accepted, name = await listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    log.warning("no more connections can be accepted for now: %s", error)
                    await trio.sleep(_ACCEPT_PAUSE_S)
                continue  # any other error is of a connection that broke before we took it
            remote = endpoint_from_socket(name)
            if not self._has_room_for(remote.host):
                accepted.close()
                continue
            if len(self._handshakes) >= HANDSHAKES_PENDING_MAX:
                # An honest handshake is over in a moment, so the oldest is the least likely one.
                next(iter(self._handshakes)).cancel()
            scope = trio.CancelScope()
            self._handshakes[scope] = network_of(remote.host)
            nursery.start_soon(self._welcome, accepted, remote, scope)

    def _has_room_for(self, host: str) -> bool:
        if is_own_machine(host):
            return True
        network = network_of(host)
        pending = sum(other == network for other in self._handshakes.values())
        if pending >= HANDSHAKES_PER_HOST_MAX:
            return False
        return self.connections.has_room_for(host)

    async def _welcome(
        self, accepted: trio.socket.SocketType, remote: Endpoint, scope: trio.CancelScope
    ) -> None:
        """Find out who dialled, within HANDSHAKE_TIMEOUT_S; the slot is given back in any case."""
        connection: Connection | None = None
        scope.deadline = trio.current_time() + HANDSHAKE_TIMEOUT_S
        try:
            with scope:
                wire = Socket(trio.SocketStream(accepted))
                channel = await self._security.secure_inbound(wire)
                messages = MessageStream(channel)
                await answer(messages, (YAMUX,))
                connection = self._connection_of(channel, remote, messages.rest, is_outbound=False)
        except (P2phubError, OSError) as error:
            log.debug("a connection from %s came to nothing: %s", remote, error)
        finally:
            del self._handshakes[scope]
            if connection is None:
                accepted.close()
        if connection is None:
            return
        is_full = len(self.connections.inbound()) >= self.inbound_max and not (
            self._make_room(is_inbound_only=True) or self._make_room_for(remote.host)
        )
        if is_full or connection.peer == self.peer_id or self._nursery is None:
            connection.yamux.end("no room for another connection")
            return
        self._add(connection)

    # -- the table -----------------------------------------------------------------------------

    def _connection_of(
        self, channel: SecureChannel, remote: Endpoint, received: bytes, *, is_outbound: bool
    ) -> Connection:
        now = trio.current_time()
        yamux = Yamux(channel, is_client=is_outbound, received=received, on_unread=self._on_unread)
        return Connection(channel.peer, remote, is_outbound, yamux, now, now)

    def _add(self, connection: Connection) -> None:
        if self._nursery is None:
            connection.yamux.end("this node stops")
            raise PeerUnreachable("this node stops", peer=connection.peer)
        older = self.connections.of(connection.peer)
        if len(older) >= CONNECTIONS_PER_PEER_MAX:
            older[0].yamux.end("a newer connection replaces it")
        self.connections.add(connection)
        self._nursery.start_soon(self._run, connection)
        self._on_connected(connection)

    async def _run(self, connection: Connection) -> None:
        def on_stream(stream: YamuxStream) -> None:
            if self._nursery is not None:
                self._nursery.start_soon(self._streams.serve, connection, stream)

        try:
            await connection.yamux.run(on_stream)
        except ProtocolViolation as error:
            log.debug("%s: %s", connection.peer, error)
        except Exception as error:
            if is_peer_fault(error):
                log.debug("%s: %s", connection.peer, error)
            else:
                self._on_fault(connection)
        finally:
            self.connections.remove(connection)

    def _make_room(self, *, is_inbound_only: bool) -> bool:
        """Close the connection that was idle longest; False if none is idle.

        is_inbound_only: for one that comes in, which shall not push out who came just before it.
        """
        until_s = trio.current_time() - (FRESH_S if is_inbound_only else 0.0)
        oldest = self.connections.idle_longest(until_s, is_inbound_only=is_inbound_only)
        return self._end(oldest, "its place was needed")

    def _make_room_for(self, host: str) -> bool:
        """Close one of the network that has most, if it has two more than `host`'s."""
        newest = self.connections.newest_of_most(host)
        return self._end(newest, "its network has more connections than others")

    def _end(self, connection: Connection | None, reason: str) -> bool:
        if connection is None:
            return False
        connection.yamux.end(reason)
        self.connections.remove(connection)
        return True

    def _on_unread(self, change: int) -> None:
        """All unread bytes together stay bounded: of the network that filled most, the connection
        with most of them is closed.
        """
        self._unread_bytes += change
        if change > 0 and self._unread_bytes > self.unread_bytes_max:
            self.connections.fullest().yamux.end("too much of what its network sent is unread")

    async def _sweep(self) -> None:
        while True:
            while not self.connections:
                await self.connections.changed()
            await trio.sleep(_SWEEP_S)
            now = trio.current_time()
            for connection in self.connections.live():
                if not connection.yamux.streams_count and now - connection.used_s > IDLE_S:
                    await connection.yamux.close()
