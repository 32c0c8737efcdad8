"""The table of real nodes on loopback: found when others die, bounded when others attack."""

from __future__ import annotations

import statistics

import pytest
import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from trio.testing import MockClock

from p2phub.errors import StreamClosed
from p2phub.net.addresses import encode_address, encode_peer_id, encode_varint
from p2phub.net.base import PeerId, Stream
from p2phub.net.libp2p import Libp2pNetwork
from p2phub.proto.limits import (
    DHT_ANNOUNCEMENTS_PER_10_S,
    DHT_PROVIDERS_PER_KEY_MAX,
    DHT_STREAMS_PER_PEER_MAX,
)
from p2phub.proto.protocols import KADEMLIA
from tests.net.nodes import (
    SYN,
    WINDOW,
    Turns,
    address_of,
    attack,
    data_frame,
    frame,
    identity,
    node,
    nodes,
    opening,
)

KEY = bytes(range(32))
WIRE_KEY = b"\x12\x20" + KEY


async def find_all(network: Libp2pNetwork, key: bytes = KEY) -> set[PeerId]:
    async with network.find(key) as lookup:
        return {provider.peer async for provider in lookup}


async def join(networks: list[Libp2pNetwork], bootstrap: Libp2pNetwork) -> None:
    """Everyone connects to one node and then looks itself up."""
    async with trio.open_nursery() as joining:
        for network in networks:
            joining.start_soon(network.connect, address_of(bootstrap))
    async with trio.open_nursery() as joining:
        for network in networks:
            joining.start_soon(network.refresh)


def message(kind: Message.MessageType, key: bytes = WIRE_KEY) -> Message:
    return Message(type=kind, key=key)


def record_of(provider: PeerId, key: bytes = WIRE_KEY) -> Message:
    request = message(Message.ADD_PROVIDER, key)
    entry = request.providerPeers.add()
    entry.id = encode_peer_id(provider)
    entry.addrs.append(encode_address("/ip4/127.0.0.1/tcp/4001"))
    return request


async def send(stream: Stream, request: Message) -> None:
    data = request.SerializeToString()
    await stream.send(encode_varint(len(data)) + data)


async def receive(stream: Stream) -> Message:
    length = shift = 0
    while True:
        byte = (await stream.receive_exactly(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    answer = Message()
    answer.ParseFromString(await stream.receive_exactly(length))
    return answer


async def ask(asker: Libp2pNetwork, asked: Libp2pNetwork, request: Message) -> Message:
    """One question on a stream of its own. Raises StreamClosed if it is refused."""
    with trio.fail_after(5):
        stream = await asker.open(asked.peer_id, KADEMLIA)
        await send(stream, request)
        await stream.close()
        return await receive(stream)


# -- finding ------------------------------------------------------------------------------------


async def test_providers_are_found_after_the_only_bootstrap_node_died(
    nursery: trio.Nursery,
) -> None:
    members = await nodes(nursery, 15)
    async with trio.open_nursery() as short:
        bootstrap = node(100)
        await short.start(bootstrap.run)
        await join(members, bootstrap)
        keys = [bytes([number]) * 32 for number in range(15)]
        for network, key in zip(members, keys, strict=True):
            assert await network.announce(key) >= 12
        short.cancel_scope.cancel()
    late = node(101)
    await nursery.start(late.run)
    await late.connect(address_of(members[7]))
    await late.refresh()
    durations = []
    for network, key in zip(members, keys, strict=True):
        begun_s = trio.current_time()
        async with late.find(key, count=1) as lookup:
            assert [provider.peer async for provider in lookup] == [network.peer_id]
        durations.append(trio.current_time() - begun_s)
    assert statistics.median(durations) < 1.0
    assert all(network.faults_count == 0 for network in [*members, late])


async def test_nodes_that_join_at_the_same_moment_all_learn_of_each_other(
    nursery: trio.Nursery,
) -> None:
    members = await nodes(nursery, 15)
    await join(members[1:], members[0])
    for network in members:
        await network.refresh()
    assert min(network.routing().peers_count for network in members) >= 14


async def test_a_third_of_dead_nodes_does_not_hide_a_provider(nursery: trio.Nursery) -> None:
    members = await nodes(nursery, 10)
    async with trio.open_nursery() as short:
        dying = await nodes(short, 5, first=50)
        await join([*members[1:], *dying], members[0])
        assert await members[3].announce(KEY) >= 10
        short.cancel_scope.cancel()
    with trio.fail_after(3):
        for network in members:
            assert await find_all(network) - {network.peer_id} == {members[3].peer_id} - {
                network.peer_id
            }


async def test_a_node_that_never_answers_holds_a_lookup_up_for_a_moment_only(
    nursery: trio.Nursery,
) -> None:
    one, other, third = await nodes(nursery, 3)
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent[0].socket.getsockname()[1]
    await join([other, third], one)
    await third.announce(KEY)
    ghost = node(77).peer_id
    for network in (one, other):
        network._kademlia.on_peer(ghost, (f"/ip4/127.0.0.1/tcp/{port}",))
    begun_s = trio.current_time()
    async with other.find(KEY) as lookup:
        async for provider in lookup:
            assert provider.peer == third.peer_id
            assert trio.current_time() - begun_s < 1.0
    assert trio.current_time() - begun_s < 4.0
    await silent[0].aclose()


async def test_a_lookup_hears_of_a_provider_that_came_after_the_last_one(
    nursery: trio.Nursery,
) -> None:
    members = await nodes(nursery, 5)
    await join(members[1:], members[0])
    await members[1].announce(KEY)
    assert await find_all(members[4]) == {members[1].peer_id}
    await members[2].announce(KEY)
    assert await find_all(members[4]) == {members[1].peer_id, members[2].peer_id}
    assert await find_all(members[1]) == {members[2].peer_id}


async def test_tables_of_another_name_are_another_network(nursery: trio.Nursery) -> None:
    one, other = node(1), node(2, kademlia_protocol="/private/kad/1")
    for network in (one, other):
        await nursery.start(network.run)
    await one.connect(address_of(other))
    assert await one.refresh() == await other.refresh() == 0
    assert await one.announce(KEY) == 0


# -- attacks ------------------------------------------------------------------------------------


async def test_idle_streams_of_one_peer_keep_nobody_else_out(nursery: trio.Nursery) -> None:
    victim, attacker, honest = await nodes(nursery, 3)
    for network in (attacker, honest):
        await network.connect(address_of(victim))
    idle = []
    for _ in range(DHT_STREAMS_PER_PEER_MAX):
        stream = await attacker.open(victim.peer_id, KADEMLIA)
        await stream.send(b"\x20half")
        idle.append(stream)
    for _ in range(30):
        with pytest.raises(StreamClosed):
            await (await attacker.open(victim.peer_id, KADEMLIA)).receive()
    assert (await ask(honest, victim, message(Message.PING))).type == Message.PING
    assert await honest.announce(KEY) >= 1


async def test_idle_streams_of_one_network_keep_nobody_else_out(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    served = victim._swarm._streams.served[KADEMLIA]
    served.streams_max = 3 * DHT_STREAMS_PER_PEER_MAX
    for number in range(3):
        attacker = await attack(nursery, victim, 9000 + number, source="127.0.0.2")
        for index in range(1, 2 * DHT_STREAMS_PER_PEER_MAX, 2):
            half = data_frame(index, opening(KADEMLIA) + b"\x20half")
            await attacker.send(frame(WINDOW, SYN, index), half)
    with trio.fail_after(5):
        while len(served.streams) < served.streams_max:
            await trio.sleep(0.01)
    oldest = next(iter(served.streams))
    await honest.connect(address_of(victim))
    stream = await honest.open(victim.peer_id, KADEMLIA)
    with trio.fail_after(5):
        for _ in range(2):
            await send(stream, message(Message.PING))
            assert (await receive(stream)).type == Message.PING
    assert oldest not in served.streams
    assert len(served.streams) <= served.streams_max


async def test_many_questions_at_once_leave_others_their_turns(nursery: trio.Nursery) -> None:
    victim, attacker = await nodes(nursery, 2)
    await attacker.connect(address_of(victim))
    stream, turns = await attacker.open(victim.peer_id, KADEMLIA), Turns()
    data = message(Message.PING).SerializeToString()
    await stream.send((encode_varint(len(data)) + data) * 500)
    await receive(stream)
    nursery.start_soon(turns.take)
    for _ in range(499):
        await receive(stream)
    assert turns.count > 400
    nursery.cancel_scope.cancel()


async def test_idle_streams_are_taken_back(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    mock_clock.rate = 20.0
    victim, attacker = await nodes(nursery, 2)
    await attacker.connect(address_of(victim))
    idle = [await attacker.open(victim.peer_id, KADEMLIA) for _ in range(DHT_STREAMS_PER_PEER_MAX)]
    for stream in idle:
        with pytest.raises(StreamClosed):
            await stream.receive()
    assert (await ask(attacker, victim, message(Message.PING))).type == Message.PING


@pytest.mark.parametrize(
    "request_",
    [
        message(Message.GET_VALUE),
        message(Message.GET_VALUE, b"/unknown/x"),
        Message(type=Message.PUT_VALUE, key=b"/unknown/x"),
        message(Message.FIND_NODE, b""),
        message(Message.GET_PROVIDERS, bytes(81)),
        message(Message.ADD_PROVIDER),
    ],
)
async def test_values_and_nonsense_are_refused(nursery: trio.Nursery, request_: Message) -> None:
    victim, attacker = await nodes(nursery, 2)
    await attacker.connect(address_of(victim))
    if request_.type == Message.PUT_VALUE:
        request_.record.key = request_.key
        request_.record.value = bytes(50_000)
    with pytest.raises(StreamClosed):
        await ask(attacker, victim, request_)
    assert victim.routing().records_count == 0
    assert victim.faults_count == 0


@pytest.mark.parametrize("head", [b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80", b"\xff\xff\x04"])
async def test_a_message_too_long_is_refused_before_it_is_read(
    nursery: trio.Nursery, head: bytes
) -> None:
    victim, attacker = await nodes(nursery, 2)
    await attacker.connect(address_of(victim))
    stream = await attacker.open(victim.peer_id, KADEMLIA)
    await stream.send(head)
    with trio.fail_after(5), pytest.raises(StreamClosed):
        await stream.receive()


async def test_a_record_in_the_name_of_another_peer_is_refused(nursery: trio.Nursery) -> None:
    victim, attacker, other = await nodes(nursery, 3)
    await attacker.connect(address_of(victim))
    with pytest.raises(StreamClosed):
        await ask(attacker, victim, record_of(other.peer_id))
    answer = await ask(attacker, victim, record_of(attacker.peer_id))
    assert (answer.type, answer.key) == (Message.ADD_PROVIDER, WIRE_KEY)
    assert victim.routing().records_count == 1


async def test_identities_of_one_network_cannot_fill_a_key(nursery: trio.Nursery) -> None:
    victim, honest = await nodes(nursery, 2)
    await honest.connect(address_of(victim))
    for number in range(DHT_PROVIDERS_PER_KEY_MAX):
        attacker = await attack(nursery, victim, 9000 + number, source="127.0.0.2")
        request = record_of(identity(9000 + number).peer_id).SerializeToString()
        said = opening(KADEMLIA) + encode_varint(len(request)) + request
        await attacker.send(frame(WINDOW, SYN, 1), data_frame(1, said))
    with trio.fail_after(5):
        while victim.routing().records_count < DHT_PROVIDERS_PER_KEY_MAX:
            await trio.sleep(0.01)
    assert (await ask(honest, victim, record_of(honest.peer_id))).type == Message.ADD_PROVIDER
    found = await ask(honest, victim, message(Message.GET_PROVIDERS))
    assert encode_peer_id(honest.peer_id) in {entry.id for entry in found.providerPeers}


async def test_a_key_keeps_its_first_providers_and_a_later_one_learns_that(
    nursery: trio.Nursery,
) -> None:
    victim, honest = await nodes(nursery, 2)
    await honest.connect(address_of(victim))
    for number in range(DHT_PROVIDERS_PER_KEY_MAX):
        (squatter,) = await nodes(nursery, 1, first=500 + number)
        await squatter.connect(address_of(victim))
        await ask(squatter, victim, record_of(squatter.peer_id))
    with pytest.raises(StreamClosed):
        await ask(honest, victim, record_of(honest.peer_id))
    assert victim.routing().records_count == DHT_PROVIDERS_PER_KEY_MAX
    other_key = b"\x12\x20" + bytes(32)
    assert (await ask(honest, victim, record_of(honest.peer_id, other_key))).key == other_key


async def test_a_sender_may_announce_at_a_named_rate_and_no_faster(
    nursery: trio.Nursery,
) -> None:
    victim, sender = await nodes(nursery, 2)
    await sender.connect(address_of(victim))
    stream = await sender.open(victim.peer_id, KADEMLIA)
    with trio.fail_after(9), pytest.raises(StreamClosed):
        for number in range(10_000):
            key = b"\x12\x20" + number.to_bytes(32, "big")
            await send(stream, record_of(sender.peer_id, key))
            await receive(stream)
    assert victim.routing().records_count == DHT_ANNOUNCEMENTS_PER_10_S


async def test_forty_announcements_in_a_row_are_all_kept(nursery: trio.Nursery) -> None:
    members = await nodes(nursery, 8)
    await join(members[1:], members[0])
    keys = [bytes([number]) * 32 for number in range(40)]
    for key in keys:
        assert await members[2].announce(key) == 7
    for key in keys:
        assert await find_all(members[5], key) == {members[2].peer_id}


async def test_answers_full_of_inventions_only_cost_their_dials(nursery: trio.Nursery) -> None:
    """A liar names 40 nodes that do not exist in each answer; the lookup still ends and finds."""
    one, other = await nodes(nursery, 2)
    liar = node(66, kademlia_protocol="/liar/kad/1")

    async def lie(stream: Stream) -> None:
        request = await receive(stream)
        answer = message(request.type, request.key)
        for number in range(40):
            entry = answer.closerPeers.add()
            entry.id = encode_peer_id(identity(7000 + number).peer_id)
            entry.addrs.append(encode_address("/ip4/127.0.0.1/tcp/1"))
        await send(stream, answer)

    liar.serve(KADEMLIA, lie)
    await nursery.start(liar.run)
    await other.connect(address_of(one))
    await one.connect(address_of(liar))
    assert await other.announce(KEY) >= 1
    with trio.fail_after(5):
        assert await find_all(one) == {other.peer_id}
    assert one.routing().peers_count == 2
