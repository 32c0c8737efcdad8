"""Only who was given a ticket opens a lane, once, from the right address, in time."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio

from p2phub.errors import (
    LanesBusy,
    NetworkError,
    PeerTimeout,
    PeerUnreachable,
    PortInUse,
    ProtocolViolation,
    StreamClosed,
)
from p2phub.net.lane_certificate import dialling_context
from p2phub.net.lane_channel import LaneChannel
from p2phub.net.lane_listener import LaneListener, connect_lane, normal_host
from p2phub.proto.limits import LANE_TICKETS_MAX
from p2phub.proto.messages import TICKET_BYTES
from tests.net.lane_pair import LOOPBACK, SOON_S, listening, open_channels

OTHER_LOOPBACK = "127.0.0.2"


class Opened:
    """Collects the lanes that tickets opened."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[LaneChannel](8)

    def __call__(self, channel: LaneChannel) -> None:
        self._send.send_nowait(channel)

    async def next(self) -> LaneChannel:
        with trio.fail_after(SOON_S):
            return await self._receive.receive()

    @property
    def count(self) -> int:
        return self._receive.statistics().current_buffer_used


async def dial(listener: LaneListener, ticket: bytes) -> LaneChannel:
    return await connect_lane(LOOPBACK, listener.port, ticket, listener.fingerprint)


async def is_closed(channel: LaneChannel) -> bool:
    """Whether the other end hangs up."""
    with trio.fail_after(SOON_S):
        try:
            await channel.receive_first(1)
        except StreamClosed:
            return True
        finally:
            channel.close()
    return False


async def stranger(listener: LaneListener, host: str = LOOPBACK) -> trio.SocketStream:
    """A TCP connection that has said nothing yet."""
    return await trio.open_tcp_stream(LOOPBACK, listener.port, local_address=host)


async def hangs_up(stream: trio.SocketStream) -> bool:
    with trio.fail_after(SOON_S):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        await stream.aclose()
    return True


async def test_a_ticket_opens_a_lane_over_tls_1_3() -> None:
    async with listening() as listener:
        dialled, accepted = await open_channels(listener)
        assert dialled.version == accepted.version == "TLSv1.3"
        assert dialled.peer_fingerprint == listener.fingerprint
        dialled.close()
        accepted.close()


async def test_a_ticket_is_good_once() -> None:
    opened = Opened()
    async with listening() as listener:
        ticket = listener.issue_ticket(LOOPBACK, opened)
        listener.issue_ticket(LOOPBACK, opened)  # Keeps the door open for this address.
        first = await dial(listener, ticket)
        accepted = await opened.next()
        assert await is_closed(await dial(listener, ticket))
        assert opened.count == 0
        first.close()
        accepted.close()


async def test_a_wrong_ticket_opens_nothing_and_spoils_no_other() -> None:
    opened = Opened()
    async with listening() as listener:
        ticket = listener.issue_ticket(LOOPBACK, opened)
        wrong = bytes([ticket[0] ^ 1]) + ticket[1:]
        assert await is_closed(await dial(listener, wrong))
        right = await dial(listener, ticket)
        (await opened.next()).close()
        right.close()
        assert listener.refused_count == 1


async def test_a_ticket_is_good_only_from_its_own_address() -> None:
    opened = Opened()
    async with listening() as listener:
        ticket = listener.issue_ticket(OTHER_LOOPBACK, opened)
        listener.issue_ticket(LOOPBACK, opened)
        assert await is_closed(await dial(listener, ticket))
        assert opened.count == 0


async def test_an_address_without_a_ticket_is_turned_away_before_any_handshake() -> None:
    async with listening() as listener:
        assert await hangs_up(await stranger(listener))
        listener.issue_ticket(OTHER_LOOPBACK, Opened())
        assert await hangs_up(await stranger(listener))
        assert listener.refused_count == 2


async def test_an_expired_ticket_opens_nothing() -> None:
    opened, expired = Opened(), trio.Event()
    async with listening(ticket_lifetime_s=0.05) as listener:
        ticket = listener.issue_ticket(LOOPBACK, opened, expired.set)
        with trio.fail_after(SOON_S):
            await expired.wait()
        with pytest.raises((StreamClosed, ProtocolViolation)):
            await dial(listener, ticket)
        assert opened.count == 0


async def test_a_revoked_ticket_opens_nothing_and_does_not_expire() -> None:
    opened, expired = Opened(), trio.Event()
    async with listening(ticket_lifetime_s=0.05) as listener:
        ticket = listener.issue_ticket(LOOPBACK, opened, expired.set)
        listener.revoke_ticket(ticket)
        listener.revoke_ticket(ticket)
        with pytest.raises((StreamClosed, ProtocolViolation)):
            await dial(listener, ticket)
        later = trio.Event()
        listener.issue_ticket(LOOPBACK, opened, later.set)
        with trio.fail_after(SOON_S):
            await later.wait()
        assert not expired.is_set()


async def test_a_redeemed_ticket_does_not_expire() -> None:
    expired, later = trio.Event(), trio.Event()
    opened = Opened()
    async with listening(ticket_lifetime_s=0.2) as listener:
        dialled = await dial(listener, listener.issue_ticket(LOOPBACK, opened, expired.set))
        accepted = await opened.next()
        listener.issue_ticket(LOOPBACK, opened, later.set)
        with trio.fail_after(SOON_S):
            await later.wait()
        assert not expired.is_set()
        dialled.close()
        accepted.close()


async def test_open_tickets_have_a_bound() -> None:
    async with listening() as listener:
        for _ in range(LANE_TICKETS_MAX):
            listener.issue_ticket(LOOPBACK, Opened())
        with pytest.raises(LanesBusy):
            listener.issue_ticket(LOOPBACK, Opened())


async def test_a_host_that_holds_all_tickets_keeps_nobody_out() -> None:
    opened = Opened()
    async with listening() as listener:
        held = [listener.issue_ticket(OTHER_LOOPBACK, Opened()) for _ in range(LANE_TICKETS_MAX)]
        with pytest.raises(LanesBusy):
            listener.issue_ticket(OTHER_LOOPBACK, Opened())
        dialled = await dial(listener, listener.issue_ticket(LOOPBACK, opened))
        (await opened.next()).close()
        dialled.close()
        assert [secret for secret in held if secret in listener._tickets] == held[1:]


async def test_who_holds_as_many_tickets_as_others_takes_none_of_theirs() -> None:
    async with listening() as listener:
        for host in (LOOPBACK, OTHER_LOOPBACK) * (LANE_TICKETS_MAX // 2):
            listener.issue_ticket(host, Opened())
        for host in (LOOPBACK, OTHER_LOOPBACK):
            with pytest.raises(LanesBusy):
                listener.issue_ticket(host, Opened())


async def test_a_listener_that_stops_gives_no_more_tickets() -> None:
    listener = LaneListener(LOOPBACK, 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        listener.issue_ticket(LOOPBACK, Opened())
        nursery.cancel_scope.cancel()
        # Somebody may ask at any moment of its end: what a session has received by then is
        # still handled.
        for _ in range(20):
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            try:
                listener.issue_ticket(LOOPBACK, Opened())
            except LanesBusy:
                pass
    with pytest.raises(LanesBusy):
        listener.issue_ticket(LOOPBACK, Opened())


async def test_an_address_has_no_more_connections_waiting_than_tickets() -> None:
    opened = Opened()
    async with listening() as listener:
        listener.issue_ticket(LOOPBACK, opened)
        first = await stranger(listener)
        assert await hangs_up(await stranger(listener))
        await first.aclose()


async def test_silent_connections_delay_nobody_and_are_cut_off() -> None:
    opened = Opened()
    async with listening(handshake_timeout_s=1.0) as listener:
        tickets = [listener.issue_ticket(LOOPBACK, opened) for _ in range(LANE_TICKETS_MAX)]
        silent = [await stranger(listener) for _ in tickets[1:]]
        dialled = await dial(listener, tickets[0])
        accepted = await opened.next()
        assert not listener.refused_count, "none of them is cut off yet"
        for stream in silent:
            assert await hangs_up(stream)
        dialled.close()
        accepted.close()
        assert listener.refused_count == len(silent)


async def test_connections_whose_tickets_were_taken_back_are_bounded() -> None:
    opened = Opened()
    async with listening() as listener:
        silent = []
        for _ in range(LANE_TICKETS_MAX):
            ticket = listener.issue_ticket(OTHER_LOOPBACK, opened)
            silent.append(await stranger(listener, OTHER_LOOPBACK))
            with trio.fail_after(SOON_S):
                while len(listener._pending) < len(silent):
                    await trio.lowlevel.checkpoint()
            listener.revoke_ticket(ticket)
            listener.issue_ticket(OTHER_LOOPBACK, opened)
        dialled = await dial(listener, listener.issue_ticket(LOOPBACK, opened))
        (await opened.next()).close()
        dialled.close()
        assert await hangs_up(silent[0])
        assert listener.refused_count == 1
        for stream in silent[1:]:
            await stream.aclose()


async def test_a_trickle_does_not_stretch_the_deadline() -> None:
    async with listening(handshake_timeout_s=0.3) as listener:
        listener.issue_ticket(LOOPBACK, Opened())
        stream = await stranger(listener)
        began_s = trio.current_time()
        with pytest.raises((trio.BrokenResourceError, trio.TooSlowError)), trio.fail_after(SOON_S):
            await stream.send_all(b"\x16\x03\x01\x10\x00")  # A record of 4 KiB follows, it says.
            while True:
                await stream.send_all(b"\x00")
                await trio.sleep(0.02)
        assert trio.current_time() - began_s < 3.0
        await stream.aclose()


async def test_a_handshake_without_a_ticket_is_cut_off() -> None:
    async with listening(handshake_timeout_s=0.2) as listener:
        listener.issue_ticket(LOOPBACK, Opened())
        connected = socket.create_connection((LOOPBACK, listener.port))
        channel = LaneChannel(connected, dialling_context(), is_server=False)
        await channel.start()
        await channel.send_first(bytes(TICKET_BYTES - 1))
        assert await is_closed(channel)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(70_000)]
)
async def test_garbage_is_turned_away(garbage: bytes) -> None:
    async with listening() as listener:
        listener.issue_ticket(LOOPBACK, Opened())
        stream = await stranger(listener)
        try:
            await stream.send_all(garbage)
        except trio.BrokenResourceError:
            pass
        assert await hangs_up(stream)
        assert listener.refused_count == 1


async def test_tls_1_2_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening() as listener:
        listener.issue_ticket(LOOPBACK, Opened())
        connected = socket.create_connection((LOOPBACK, listener.port))
        channel = LaneChannel(connected, context, is_server=False)
        with pytest.raises((ProtocolViolation, StreamClosed)):
            await channel.start()
        channel.close()


async def test_another_certificate_is_refused_before_the_ticket_is_shown() -> None:
    opened = Opened()
    async with listening() as listener, listening() as impostor:
        ticket = listener.issue_ticket(LOOPBACK, opened)
        impostor.issue_ticket(LOOPBACK, opened)
        with pytest.raises(ProtocolViolation):
            await connect_lane(LOOPBACK, impostor.port, ticket, listener.fingerprint)
        dialled = await dial(listener, ticket)
        (await opened.next()).close()
        dialled.close()


async def test_nobody_there_is_said_at_once() -> None:
    async with listening() as listener:
        port = listener.port
    with pytest.raises(PeerUnreachable):
        await connect_lane(LOOPBACK, port, bytes(TICKET_BYTES), bytes(32))


async def test_a_silent_listener_is_given_up() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent, pytest.raises(PeerTimeout):
        await connect_lane(
            LOOPBACK, silent.getsockname()[1], bytes(TICKET_BYTES), bytes(32), timeout_s=0.1
        )


async def test_a_port_in_use_is_named() -> None:
    async with listening() as listener:
        with pytest.raises(PortInUse) as caught:
            LaneListener(LOOPBACK, listener.port)
        assert caught.value.facts["port"] == listener.port


async def test_a_port_held_with_so_reuseport_is_in_use_too() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((LOOPBACK, 0))
        other.listen()
        with pytest.raises(PortInUse):
            LaneListener(LOOPBACK, other.getsockname()[1])


async def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(NetworkError):
        LaneListener("192.0.2.1", 0)


async def test_the_port_is_free_again_after_the_listener() -> None:
    async with listening() as listener:
        port = listener.port
        dialled, accepted = await open_channels(listener)
        dialled.close()
        accepted.close()
    listener = LaneListener(LOOPBACK, port)
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.run)
        nursery.cancel_scope.cancel()


def test_one_address_has_one_text() -> None:
    assert normal_host("::ffff:192.0.2.7") == normal_host("192.0.2.7") == "192.0.2.7"
    assert normal_host("fe80::1%eth0") == normal_host("FE80:0::1") == "fe80::1"
