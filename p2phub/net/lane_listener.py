"""Opening lanes: who may connect, who proves what, and by when.

All in trio tasks, without a thread.

The accepting end hands a one-time ticket to the peer over their session, with the fingerprint of
its certificate. It takes connections only from addresses for which a ticket is open, as many at a
time as tickets are open for them, so that nobody waits behind those that say nothing. The dialling
end pins the fingerprint before it shows the ticket. One deadline covers TCP, TLS and ticket
together.

Source: SPEC.md section 8.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2phub.errors import (
    LanesBusy,
    NetworkError,
    P2phubError,
    PeerTimeout,
    PeerUnreachable,
    PortInUse,
    ProtocolViolation,
)
from p2phub.net.addresses import gives_way, network_of
from p2phub.net.lane_certificate import LaneIdentity, dialling_context
from p2phub.net.lane_channel import LaneChannel
from p2phub.proto.limits import (
    LANE_HANDSHAKE_TIMEOUT_S,
    LANE_TICKET_LIFETIME_S,
    LANE_TICKETS_MAX,
)
from p2phub.proto.messages import TICKET_BYTES

log = logging.getLogger(__name__)

OnLane = Callable[[LaneChannel], None]
OnExpired = Callable[[], None]

_BACKLOG = 64  # the kernel's queue before `accept`
_OUT_OF_DESCRIPTORS_PAUSE_S = 0.5  # a connection that cannot be accepted stays in the queue
_OUT_OF_DESCRIPTORS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(slots=True, eq=False)
class _Ticket:
    secret: bytes
    host: str  # normal form of the only IP that may show it
    on_lane: OnLane
    settled: trio.Event = field(default_factory=trio.Event)  # shown, or revoked


class LaneListener:
    """A TCP port for lanes. Bound when made; takes connections while `run` runs."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        handshake_timeout_s: float = LANE_HANDSHAKE_TIMEOUT_S,
        ticket_lifetime_s: float = LANE_TICKET_LIFETIME_S,
    ) -> None:
        """Bind. Raises PortInUse, or NetworkError if this machine has no such address."""
        self._handshake_timeout_s = handshake_timeout_s
        self._ticket_lifetime_s = ticket_lifetime_s
        self._socket = _listening_socket(host, port)
        self._identity = LaneIdentity()
        self._tickets: dict[bytes, _Ticket] = {}
        # Connections that have not shown a ticket yet, LANE_TICKETS_MAX at most, oldest first; by
        # host.
        self._pending: dict[trio.CancelScope, str] = {}
        self._nursery: trio.Nursery | None = None
        self.refused_count = 0  # connections turned away since the start

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def fingerprint(self) -> bytes:
        """What a dialler must pin: SHA-256 of the certificate."""
        return self._identity.fingerprint

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take connections until cancelled, then close the port."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    task_status.started()
                    await self._accept_all(nursery)
                finally:
                    self._nursery = None
        finally:
            self._tickets.clear()
            self._socket.close()

    def issue_ticket(
        self, host: str, on_lane: OnLane, on_expired: OnExpired | None = None
    ) -> bytes:
        """A secret that whoever dials from `host` may show once, within LANE_TICKET_LIFETIME_S.

        on_lane: called in the event loop with the lane that the ticket opened; owns it from then
        on.
        on_expired: called instead when nobody showed it in time; not when it was revoked.
        Where all tickets are given out, the network that has most of them loses its oldest to one
        that has two fewer.
        Raises LanesBusy, also when the listener stops: sessions may outlive it by a moment.
        """
        host = normal_host(host)
        if self._nursery is None or not self._has_room_for(host):
            raise LanesBusy()
        ticket = _Ticket(secrets.token_bytes(TICKET_BYTES), host, on_lane)
        self._tickets[ticket.secret] = ticket
        self._nursery.start_soon(self._expire, ticket, on_expired)
        return ticket.secret

    def revoke_ticket(self, secret: bytes) -> None:
        """Nobody may show this ticket any more."""
        ticket = self._tickets.pop(secret, None)
        if ticket is not None:
            ticket.settled.set()

    def _has_room_for(self, host: str) -> bool:
        if len(self._tickets) < LANE_TICKETS_MAX:
            return True
        network = gives_way((ticket.host for ticket in self._tickets.values()), host)
        if network is None:
            return False
        # Who means to dial does so at once, so the oldest is the least likely one.
        self.revoke_ticket(
            next(key for key, held in self._tickets.items() if network_of(held.host) == network)
        )
        return True

    async def _expire(self, ticket: _Ticket, on_expired: OnExpired | None) -> None:
        with trio.move_on_after(self._ticket_lifetime_s):
            await ticket.settled.wait()
        if ticket.settled.is_set():
            return
        del self._tickets[ticket.secret]
        if on_expired is not None:
            on_expired()

    async def _accept_all(self, nursery: trio.Nursery) -> None:
        """Take connections from hosts for which more tickets are open than connections wait."""
        while True:
            await trio.lowlevel.wait_readable(self._socket.fileno())
            try:
                connected, address = self._socket.accept()
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    await trio.sleep(_OUT_OF_DESCRIPTORS_PAUSE_S)
                continue  # Otherwise the dialler is gone again.
            host = normal_host(address[0])
            waiting = list(self._pending.values()).count(host)
            if waiting >= self._tickets_count(host):
                self.refused_count += 1
                connected.close()
                continue
            if len(self._pending) >= LANE_TICKETS_MAX:
                # Tickets that were taken back left their connections. An honest handshake is over
                # in a moment, so the oldest is the least likely one.
                oldest = next(iter(self._pending))
                del self._pending[oldest]
                oldest.cancel()
            scope = trio.CancelScope()
            self._pending[scope] = host
            nursery.start_soon(self._admit, connected, host, scope)

    def _tickets_count(self, host: str) -> int:
        return sum(ticket.host == host for ticket in self._tickets.values())

    async def _admit(self, connected: socket.socket, host: str, scope: trio.CancelScope) -> None:
        """One connection from its first byte to its ticket."""
        scope.deadline = trio.current_time() + self._handshake_timeout_s
        channel = LaneChannel(connected, self._identity.context, is_server=True)
        ticket = None
        try:
            with scope:
                await channel.start()
                ticket = self._redeem(await channel.receive_first(TICKET_BYTES), host)
        except P2phubError as error:
            log.debug("a lane from %s was not opened: %s", host, error)
        finally:
            self._pending.pop(scope, None)
            if ticket is None:
                self.refused_count += 1
                channel.close()
        if ticket is not None:
            ticket.on_lane(channel)

    def _redeem(self, secret: bytes, host: str) -> _Ticket:
        """Take the open ticket of `host` with this secret. Raises ProtocolViolation."""
        found = None
        for ticket in self._tickets.values():
            # Every ticket is compared whole, so that the time taken tells nothing of any.
            if hmac.compare_digest(ticket.secret, secret) and ticket.host == host:
                found = ticket
        if found is None:
            raise ProtocolViolation("a lane's ticket is not one of ours")
        self.revoke_ticket(found.secret)
        return found


async def connect_lane(
    host: str,
    port: int,
    ticket: bytes,
    fingerprint: bytes,
    *,
    timeout_s: float = LANE_HANDSHAKE_TIMEOUT_S,
) -> LaneChannel:
    """Open a lane to the peer that gave us `ticket` over a session with `host`.

    Raises PeerUnreachable, PeerTimeout, or ProtocolViolation if another certificate answers; the
    ticket stays unseen then.
    """
    assert len(ticket) == TICKET_BYTES
    with trio.move_on_after(timeout_s):
        channel = LaneChannel(await _connected(host, port), dialling_context(), is_server=False)
        try:
            await channel.start()
            if not hmac.compare_digest(channel.peer_fingerprint, fingerprint):
                raise ProtocolViolation("a lane shows another certificate than was agreed")
            await channel.send_first(ticket)
        except BaseException:
            channel.close()
            raise
        return channel
    raise PeerTimeout(f"no lane opened to {host} port {port}", host=host, port=port)


async def _connected(host: str, port: int) -> socket.socket:
    address = ipaddress.ip_address(host.partition("%")[0])
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        connecting = socket.socket(family)
    except OSError as refusal:  # no descriptor is left
        raise NetworkError(f"no lane to {host}: {refusal.strerror}", host=host) from refusal
    try:
        connecting.setblocking(False)
        try:
            connecting.connect((host, port))
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connecting.fileno())
        error = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, "connection refused or lost")
    except OSError as error:
        connecting.close()
        raise PeerUnreachable(
            f"no lane to {host} port {port}: {error.strerror}", host=host, port=port
        ) from error
    except BaseException:
        connecting.close()
        raise
    return connecting


def normal_host(host: str) -> str:
    """One text per IP address: without a scope, and IPv4 also where it came in through an IPv6
    socket.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _listening_socket(host: str, port: int) -> socket.socket:
    """Bind and listen.

    Without SO_REUSEPORT, so that a port in use is an error and not half of the traffic.
    """
    is_ipv6 = ":" in host
    listening = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        where = f"{host} port {port}"
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"another program listens on {where}", host=host, port=port) from error
        raise NetworkError(
            f"cannot listen on {where}: {error.strerror}", host=host, port=port
        ) from error
    return listening
