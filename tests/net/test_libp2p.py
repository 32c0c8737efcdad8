"""The real network's own promises: ports, addresses, quiet, other implementations."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import textwrap

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.stream.net_stream import INetStream
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2phub.errors import BadSetting, NetworkError, PortInUse
from p2phub.net.base import PeerId, Stream, parse_peer_address
from p2phub.net.libp2p import PING, PING_BYTES, assert_version
from p2phub.proto.limits import PEERS_KNOWN_MAX
from tests.net.nodes import ECHO, Turns, address_of, ask_echo, node, nodes


async def test_a_port_that_another_node_uses_is_refused(nursery: trio.Nursery) -> None:
    (one,) = await nodes(nursery, 1)
    taken = address_of(one).addresses[0]
    with pytest.raises(PortInUse):
        await node(2, listen=taken).run()


async def test_a_port_whose_user_would_share_it_is_refused_too() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}"
        with pytest.raises(PortInUse):
            await node(1, listen=address).run()


async def test_a_port_is_free_again_after_a_stop(nursery: trio.Nursery) -> None:
    async with trio.open_nursery() as short:
        (one,) = await nodes(short, 1)
        taken = address_of(one).addresses[0]
        (other,) = await nodes(short, 1, first=2)
        await other.connect(address_of(one))
        short.cancel_scope.cancel()
    await nursery.start(node(1, listen=taken).run)


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/udp/1/quic-v1", "0.0.0.0:4001", "/dns/a/tcp/1"])
def test_an_address_nobody_can_listen_on_is_a_bad_setting(listen: str) -> None:
    with pytest.raises(BadSetting):
        node(1, listen=listen)


async def test_wildcards_are_never_told_to_others(nursery: trio.Nursery) -> None:
    one = node(1, listen="/ip4/0.0.0.0/tcp/0", announce=["/dns4/seed.example/tcp/4001"])
    await nursery.start(one.run)
    assert one.addresses()[0] == f"/dns4/seed.example/tcp/4001/p2p/{one.peer_id}"
    assert len(one.addresses()) > 1
    assert not any("/0.0.0.0/" in address for address in one.addresses())
    (other,) = await nodes(nursery, 1, first=2)
    await other.connect(parse_peer_address(one.addresses()[-1]))
    (found,) = await other.find_closest(bytes(32))
    assert set(found.texts()) == set(one.addresses())


async def test_an_ipv6_peer_is_known_by_its_address(nursery: trio.Nursery) -> None:
    hosts: list[str | None] = []

    async def note(stream: Stream) -> None:
        hosts.append(stream.remote_host)
        await stream.send(b"noted")

    one, other = node(1, listen="/ip6/::1/tcp/0"), node(2, listen="/ip6/::1/tcp/0")
    one.serve("/test/note/1", note)
    for network in (one, other):
        await nursery.start(network.run)
    await other.connect(address_of(one))
    stream = await other.open(one.peer_id, "/test/note/1")
    assert await stream.receive_exactly(5) == b"noted"
    assert (stream.remote_host, hosts) == ("::1", ["::1"])
    assert [str(status.address)[:9] for status in one.peers()] == ["/ip6/::1/"]


async def test_peers_that_were_dialled_are_told_of_each_other_by_the_one_in_the_middle(
    nursery: trio.Nursery,
) -> None:
    one, middle, other = await nodes(nursery, 3)
    for network in (one, other):
        await network.connect(address_of(middle))
    await one.refresh()
    assert other.peer_id in {status.peer for status in one.peers()}
    assert await ask_echo(one, other) == b"are you there"


async def test_identities_that_come_and_go_do_not_take_the_addresses_of_who_is_here(
    nursery: trio.Nursery,
) -> None:
    one, other = await nodes(nursery, 2)
    await one.connect(address_of(other))
    for number in range(PEERS_KNOWN_MAX + 10):
        one._remember(PeerId(f"passing {number}"), ("/ip4/192.0.2.1/tcp/1",))
    assert one.known_address(other.peer_id) == address_of(other)
    assert len(one._known) == PEERS_KNOWN_MAX
    assert PeerId("passing 0") not in one._known
    nursery.cancel_scope.cancel()


async def test_many_pings_at_once_leave_others_their_turns(nursery: trio.Nursery) -> None:
    victim, attacker = await nodes(nursery, 2)
    await attacker.connect(address_of(victim))
    stream, turns = await attacker.open(victim.peer_id, PING), Turns()
    await stream.send(bytes(PING_BYTES) * 500)
    await stream.receive_exactly(PING_BYTES)
    nursery.start_soon(turns.take)
    await stream.receive_exactly(PING_BYTES * 499)
    assert turns.count > 400
    nursery.cancel_scope.cancel()


async def test_streams_to_a_peer_we_lost_dial_it_again(nursery: trio.Nursery) -> None:
    one, other = await nodes(nursery, 2)
    await one.connect(address_of(other))
    await one.disconnect(other.peer_id)
    assert await ask_echo(one, other) == b"are you there"


def test_an_ordinary_life_says_nothing_on_stderr() -> None:
    program = """
        import logging, trio
        from tests.net.nodes import address_of, ask_echo, nodes
        async def main():
            async with trio.open_nursery() as nursery:
                members = await nodes(nursery, 4)
                for member in members[1:]:
                    await member.connect(address_of(members[0]))
                    await member.refresh()
                await members[1].announce(bytes(32))
                await ask_echo(members[1], members[2])
                await members[1].disconnect(members[0].peer_id)
                nursery.cancel_scope.cancel()
        trio.run(main)
    """
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert logging.getLogger("libp2p").level == logging.CRITICAL


def test_another_version_of_libp2p_is_refused_with_both_versions_named() -> None:
    assert_version("0.8.1")
    with pytest.raises(NetworkError, match=r"0\.8\.2 is installed.*0\.8\.1"):
        assert_version("0.8.2")


# -- libp2p's own host, as other networks run it ----------------------------------------------


def stock_host(seed: int) -> object:
    key_pair = create_new_key_pair(seed.to_bytes(32, "big"))
    noise = Transport(key_pair, create_noise_key_pair().private_key)
    return new_host(key_pair=key_pair, sec_opt={NOISE: noise})


@pytest.mark.filterwarnings("ignore")
async def test_libp2ps_own_host_and_ours_understand_each_other(nursery: trio.Nursery) -> None:
    ours = node(1, kademlia_protocol="/ipfs/kad/1.0.0")
    await nursery.start(ours.run)
    data = bytes(range(256)) * 1000
    host = stock_host(99)
    served = trio.Event()

    async def answer(stream: INetStream) -> None:
        received = b""
        while len(received) < len(data):
            received += await stream.read(65_536)
        await stream.write(received)
        await stream.close()
        served.set()

    host.set_stream_handler(TProtocol("/theirs/1"), answer)  # type: ignore[attr-defined]
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):  # type: ignore[attr-defined]
        with trio.fail_after(20):
            # They dial, open and upload.
            us = info_from_p2p_addr(Multiaddr(ours.addresses()[0]))
            await host.connect(us)  # type: ignore[attr-defined]
            echo = [TProtocol(ECHO)]
            theirs = await host.new_stream(us.peer_id, echo)  # type: ignore[attr-defined]
            await theirs.write(data[:100_000])
            back = b""
            while len(back) < 100_000:
                back += await theirs.read(65_536)
            assert back == data[:100_000]
            await theirs.reset()
            # We open a stream on their connection and on one of our own.
            peer = parse_peer_address(f"{host.get_addrs()[0]}")  # type: ignore[attr-defined]
            for _ in range(2):
                stream = await ours.open(peer.peer, "/theirs/1")
                await stream.send(data)
                await stream.close()
                assert await stream.receive_exactly(len(data)) == data
                await stream.reset()
                await served.wait()
                await ours.disconnect(peer.peer)
                await ours.connect(peer)
            ping = await ours.open(peer.peer, PING)
            await ping.send(bytes(32))
            assert await ping.receive_exactly(32) == bytes(32)
            await ping.reset()


@pytest.mark.filterwarnings("ignore")
async def test_libp2ps_own_table_and_ours_find_each_others_providers(
    nursery: trio.Nursery,
) -> None:
    ours = node(1, kademlia_protocol="/ipfs/kad/1.0.0")
    await nursery.start(ours.run)
    host = stock_host(99)
    key, other_key = bytes(range(32)), bytes(32)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):  # type: ignore[attr-defined]
        table = KadDHT(host, DHTMode.SERVER, strict_validation=True)  # type: ignore[arg-type]
        async with background_trio_service(table):
            with trio.fail_after(20):
                peer = parse_peer_address(f"{host.get_addrs()[0]}")  # type: ignore[attr-defined]
                await ours.connect(peer)
                assert await ours.refresh() == 1
                assert await ours.announce(key) == 1
                stored = table.provider_store.get_providers(b"\x12\x20" + key)
                assert [found.peer_id.to_base58() for found in stored] == [ours.peer_id]
                assert await table.provider_store.provide(b"\x12\x20" + other_key)
                async with ours.find(other_key) as lookup:
                    assert [found.peer async for found in lookup] == [peer.peer]
