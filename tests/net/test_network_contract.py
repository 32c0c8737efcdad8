"""What every network promises, asked of the real one and of the one in memory alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from p2phub.errors import (
    NetworkError,
    PeerUnreachable,
    ProtocolRefused,
    ProtocolViolation,
    StreamClosed,
)
from p2phub.net.base import Network, PeerAddress, Stream, parse_peer_address
from p2phub.net.memory import MemoryHub
from tests.conftest import LoggedFaults
from tests.net.nodes import identity
from tests.net.nodes import node as libp2p_node

MakeNode = Callable[[int], Network]
ECHO = "/test/echo/1"
KEY = bytes(range(32))


@pytest.fixture(params=["libp2p", "memory"])
def make_node(request: pytest.FixtureRequest) -> MakeNode:
    if request.param == "libp2p":
        return libp2p_node
    hub = MemoryHub()
    return lambda number: hub.network(str(number))


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def start(nursery: trio.Nursery, *networks: Network) -> None:
    for network in networks:
        await nursery.start(network.run)


def address_of(network: Network) -> PeerAddress:
    return parse_peer_address(network.addresses()[0])


async def start_pair(nursery: trio.Nursery, make_node: MakeNode) -> tuple[Network, Network]:
    """Two nodes, the first connected to the second, both answer echo."""
    one, other = make_node(1), make_node(2)
    for network in (one, other):
        network.serve(ECHO, echo, streams_per_peer_max=3)
    await start(nursery, one, other)
    await one.connect(address_of(other))
    return one, other


async def test_bytes_come_back_in_order_and_the_end_is_seen(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = await start_pair(nursery, make_node)
    stream = await one.open(other.peer_id, ECHO)
    sent = bytes(index % 251 for index in range(300_000))

    async def send() -> None:
        await stream.send(memoryview(sent))
        await stream.close()

    nursery.start_soon(send)
    with trio.fail_after(5):
        assert await stream.receive_exactly(len(sent)) == sent
        assert await stream.receive() == b""
        assert await stream.receive() == b""


async def test_each_end_knows_who_and_where_the_other_is(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    met: list[tuple[str, str | None]] = []
    served = trio.Event()

    async def greet(stream: Stream) -> None:
        met.append((stream.peer, stream.remote_host))
        served.set()

    one, other = make_node(1), make_node(2)
    other.serve("/test/greet/1", greet)
    await start(nursery, one, other)
    await one.connect(address_of(other))
    stream = await one.open(other.peer_id, "/test/greet/1")
    with trio.fail_after(5):
        await served.wait()
    assert (stream.peer, stream.remote_host) == (other.peer_id, "127.0.0.1")
    assert met == [(one.peer_id, "127.0.0.1")]
    assert [(status.peer, status.is_outbound) for status in one.peers()] == [(other.peer_id, True)]
    assert [(status.peer, status.is_outbound) for status in other.peers()] == [(one.peer_id, False)]


async def test_a_stream_that_ends_early_is_an_error_not_a_short_answer(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = make_node(1), make_node(2)

    async def stingy(stream: Stream) -> None:
        await stream.send(b"abc")

    other.serve("/test/stingy/1", stingy)
    await start(nursery, one, other)
    await one.connect(address_of(other))
    stream = await one.open(other.peer_id, "/test/stingy/1")
    with trio.fail_after(5), pytest.raises(StreamClosed):
        await stream.receive_exactly(4)


async def test_a_protocol_nobody_serves_is_refused(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = await start_pair(nursery, make_node)
    with pytest.raises(ProtocolRefused):
        await one.open(other.peer_id, "/test/unknown/1")


async def test_nothing_can_be_sent_after_close_or_reset(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = await start_pair(nursery, make_node)
    closed = await one.open(other.peer_id, ECHO)
    await closed.close()
    await closed.close()
    with pytest.raises(StreamClosed):
        await closed.send(b"more")
    dropped = await one.open(other.peer_id, ECHO)
    await dropped.reset()
    await dropped.reset()
    with pytest.raises(StreamClosed):
        await dropped.send(b"more")
    with pytest.raises(StreamClosed):
        await dropped.receive()


async def test_a_reset_is_seen_at_the_other_end(nursery: trio.Nursery, make_node: MakeNode) -> None:
    one, other = make_node(1), make_node(2)
    seen = trio.Event()

    async def wait(stream: Stream) -> None:
        try:
            await stream.receive()
        except StreamClosed:
            seen.set()
            raise

    other.serve("/test/wait/1", wait)
    await start(nursery, one, other)
    await one.connect(address_of(other))
    stream = await one.open(other.peer_id, "/test/wait/1")
    await stream.reset()
    with trio.fail_after(5):
        await seen.wait()
    assert other.faults_count == 0


async def test_a_reader_that_does_not_read_makes_the_writer_wait(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = make_node(1), make_node(2)
    go_on = trio.Event()
    received = 0

    async def lazy(stream: Stream) -> None:
        nonlocal received
        await go_on.wait()
        while data := await stream.receive():
            received += len(data)
        await stream.send(b"done")

    other.serve("/test/lazy/1", lazy)
    await start(nursery, one, other)
    await one.connect(address_of(other))
    stream = await one.open(other.peer_id, "/test/lazy/1")
    with trio.move_on_after(0.3) as waited:
        await stream.send(bytes(2_000_000))
    assert waited.cancelled_caught
    await stream.reset()
    stream = await one.open(other.peer_id, "/test/lazy/1")
    go_on.set()
    with trio.fail_after(5):
        await stream.send(bytes(2_000_000))
        await stream.close()
        assert await stream.receive_exactly(4) == b"done"


async def test_streams_beyond_a_protocols_bound_are_reset_and_the_others_live(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = await start_pair(nursery, make_node)
    streams = [await one.open(other.peer_id, ECHO) for _ in range(3)]
    for stream in streams:
        await stream.send(b"x")
        assert await stream.receive_exactly(1) == b"x"
    with trio.fail_after(5), pytest.raises(StreamClosed):
        excess = await one.open(other.peer_id, ECHO)
        await excess.receive()
    await streams[0].send(b"y")
    assert await streams[0].receive_exactly(1) == b"y"


async def test_a_peers_fault_ends_its_stream_alone(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = make_node(1), make_node(2)

    async def strict(stream: Stream) -> None:
        raise ProtocolViolation("not like this")

    async def strict_group(stream: Stream) -> None:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(strict, stream)

    other.serve("/test/strict/1", strict)
    other.serve("/test/group/1", strict_group)
    await start(nursery, one, other)
    await one.connect(address_of(other))
    for protocol in ("/test/strict/1", "/test/group/1"):
        with trio.fail_after(5), pytest.raises(StreamClosed):
            stream = await one.open(other.peer_id, protocol)
            await stream.receive()
    assert other.faults_count == 0
    assert [status.peer for status in one.peers()] == [other.peer_id]


async def test_a_bug_ends_the_connection_it_met_and_is_counted(
    nursery: trio.Nursery, make_node: MakeNode, logged_faults: LoggedFaults
) -> None:
    one, other, third = make_node(1), make_node(2), make_node(3)

    async def broken(stream: Stream) -> None:
        raise ZeroDivisionError

    other.serve("/test/broken/1", broken)
    other.serve(ECHO, echo)
    await start(nursery, one, other, third)
    for network in (one, third):
        await network.connect(address_of(other))
    with trio.fail_after(5), pytest.raises(StreamClosed):
        stream = await one.open(other.peer_id, "/test/broken/1")
        await stream.receive()
    assert other.faults_count == 1
    assert [record.exc_info[0] for record in logged_faults.take() if record.exc_info] == [
        ZeroDivisionError
    ]
    stream = await third.open(other.peer_id, ECHO)
    await stream.send(b"still here")
    assert await stream.receive_exactly(10) == b"still here"


async def test_who_waits_hears_when_peers_come_can_be_dialled_and_go(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = make_node(1), make_node(2)
    await start(nursery, one, other)
    seen: list[tuple[bool, bool]] = []

    async def look() -> None:
        while True:
            await other.peers_changed()
            is_known = other.known_address(one.peer_id) is not None
            seen.append((bool(other.peers()), is_known))

    nursery.start_soon(look)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5):
        await one.connect(address_of(other))
        while (True, True) not in seen:
            await trio.sleep(0.001)
        await one.disconnect(other.peer_id)
        while all(is_there for is_there, _ in seen):  # soon again, perhaps: the table dials it
            await trio.sleep(0.001)


async def test_disconnect_ends_streams_at_both_ends_and_a_new_connect_works(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = await start_pair(nursery, make_node)
    stream = await one.open(other.peer_id, ECHO)
    await one.disconnect(other.peer_id)
    with pytest.raises(StreamClosed):
        await stream.receive()
    assert one.peers() == []
    await one.connect(address_of(other))
    stream = await one.open(other.peer_id, ECHO)
    await stream.send(b"again")
    assert await stream.receive_exactly(5) == b"again"


async def test_a_peer_that_is_not_there_is_unreachable(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one = make_node(1)
    await start(nursery, one)
    nobody = identity(77).peer_id
    with pytest.raises(PeerUnreachable):
        await one.connect(PeerAddress(nobody, ("/ip4/127.0.0.1/tcp/1",)))
    with pytest.raises(PeerUnreachable):
        await one.connect(PeerAddress(nobody, ()))
    with pytest.raises(PeerUnreachable):
        await one.open(nobody, ECHO)


async def test_a_node_does_not_connect_to_itself(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one = make_node(1)
    await start(nursery, one)
    with pytest.raises(PeerUnreachable):
        await one.connect(address_of(one))


async def test_a_node_that_stops_is_gone_for_others(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = make_node(1), make_node(2)
    other.serve(ECHO, echo)
    await start(nursery, one)
    async with trio.open_nursery() as short:
        await start(short, other)
        await one.connect(address_of(other))
        stream = await one.open(other.peer_id, ECHO)
        short.cancel_scope.cancel()
    with trio.fail_after(5), pytest.raises(StreamClosed):
        await stream.receive()


async def test_an_announcement_is_found_by_others_and_counted_truly(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    networks = [make_node(number) for number in range(1, 6)]
    await start(nursery, *networks)
    assert await networks[0].announce(KEY) == 0, "alone, nobody can have taken it"
    for network in networks[1:]:
        await network.connect(address_of(networks[0]))
    for network in networks:
        await network.refresh()
    assert await networks[1].announce(KEY) == 4
    for finder in (networks[0], networks[4]):
        with trio.fail_after(5):
            async with finder.find(KEY) as lookup:
                found = [provider async for provider in lookup]
        assert {provider.peer for provider in found} == {
            networks[0].peer_id,
            networks[1].peer_id,
        } - {finder.peer_id}
        assert len(found) == len({provider.peer for provider in found})
        assert lookup.asked_count == 5
    provider = found[-1]
    await networks[4].connect(provider)


async def test_a_key_nobody_announced_ends_empty_and_says_how_many_were_asked(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = await start_pair(nursery, make_node)
    await one.refresh()
    with trio.fail_after(5):
        async with one.find(bytes(32)) as lookup:
            assert [provider async for provider in lookup] == []
        assert lookup.asked_count == 2
    assert [found.peer for found in await one.find_closest(KEY)] == [other.peer_id]


async def test_a_lookup_can_be_left_early_and_its_errors_are_the_callers(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = await start_pair(nursery, make_node)
    await other.announce(KEY)
    with pytest.raises(ZeroDivisionError):
        async with one.find(KEY) as lookup:
            async for _ in lookup:
                raise ZeroDivisionError
    async with one.find(KEY, count=1) as lookup:
        assert len([provider async for provider in lookup]) == 1


async def test_a_network_that_does_not_run_says_so(make_node: MakeNode) -> None:
    one = make_node(1)
    with pytest.raises(NetworkError):
        async with one.find(KEY):
            pass


async def test_cancelling_a_send_harms_no_other_stream(
    nursery: trio.Nursery, make_node: MakeNode
) -> None:
    one, other = make_node(1), make_node(2)

    async def deaf(stream: Stream) -> None:
        await trio.sleep_forever()

    other.serve("/test/deaf/1", deaf)
    other.serve(ECHO, echo)
    await start(nursery, one, other)
    await one.connect(address_of(other))
    for _ in range(3):
        stream = await one.open(other.peer_id, "/test/deaf/1")
        with trio.move_on_after(0.05):
            await stream.send(bytes(10_000_000))
        await stream.reset()
        stream = await one.open(other.peer_id, ECHO)
        await stream.send(b"fine")
        with trio.fail_after(5):
            assert await stream.receive_exactly(4) == b"fine"
        await stream.close()
