"""The distributed hash table: who provides a key, asked of the nodes nearest to it, and answered
for others.

The messages are libp2p's Kademlia; the table, the walk and the records are those of
p2phub.core.discovery.
Values are off: nothing but provider records is ever kept for a stranger, and those within bounds.
libp2p's own service is not used: twelve idle streams of one peer stop it for good, it calls an
announcement done that nobody took, and it answers from what it heard two days ago.
Source: https://github.com/libp2p/specs/blob/master/kad-dht/README.md.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import lru_cache

import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message

from p2phub.core.discovery.lookup import CLOSEST_MAX, Candidate, Lookup
from p2phub.core.discovery.records import ProviderRecords
from p2phub.core.discovery.routing_table import RoutingTable
from p2phub.digest import sha256
from p2phub.errors import P2phubError, PeerTimeout, ProtocolViolation
from p2phub.net.addresses import encode_peer_id, network_of
from p2phub.net.base import PeerAddress, PeerId, RoutingStatus, Stream
from p2phub.net.connection import Served
from p2phub.net.kademlia_messages import (
    add_peers,
    message_of,
    read_peers,
    receive_message,
    send_message,
)
from p2phub.net.lookup import ProviderLookup
from p2phub.net.swarm import Swarm
from p2phub.proto.limits import (
    DHT_ANNOUNCEMENTS_PER_10_S,
    DHT_KEY_BYTES_MAX,
    DHT_QUERIES_PER_10_S,
    DHT_STREAMS_MAX,
    DHT_STREAMS_PER_PEER_MAX,
)

DIAL_TIMEOUT_S = 2.5  # a node that is there answers within; a dead one holds a walk up no longer
QUESTION_TIMEOUT_S = 5.0  # the dial and two round trips
SERVE_IDLE_S = 10.0  # between two questions on one stream
# After the first node is known, and what was to be fetched of it has begun: again when the others
# have joined too.
JOIN_REFRESHES_S = (1.0, 4.0, 30.0)
REFRESH_S = 600.0  # then; as in libp2p
REFRESH_JITTER = 0.25  # of it, either way: nodes started together do not stay together
UNREACHABLE_S = 30.0  # for this long nobody's word makes us dial a node again that did not answer
_UNREACHABLE_MAX = 1024
_EXPIRE_S = 900.0
_RATE_WINDOW_S = 10.0
# A key in a deeper bucket would take thousands of hashes to find, and those fill by themselves.
_REFRESH_BITS_MAX = 10

AddressesOf = Callable[[PeerId], tuple[str, ...]]


@lru_cache(8192)
def position_of_peer(peer: str) -> int:
    """A peer's place in the key space: the SHA-256 of its id's bytes."""
    return position_of_key(encode_peer_id(PeerId(peer)))


def position_of_key(key: bytes) -> int:
    return int.from_bytes(sha256(key), "big")


class Kademlia:
    """This node's part in the table."""

    def __init__(
        self,
        swarm: Swarm,
        protocol: str,
        *,
        addresses_of: AddressesOf,
        own_addresses: Callable[[], tuple[str, ...]],
        rng: random.Random,
    ) -> None:
        """addresses_of: what a peer said of itself, empty if it said nothing. own_addresses: ours,
        without /p2p.
        """
        self._swarm = swarm
        self._protocol = protocol
        self._addresses_of = addresses_of
        self._own_addresses = own_addresses
        self._rng = rng
        self._table = RoutingTable(position_of_peer(swarm.peer_id))
        self._records = ProviderRecords()
        self._unreachable: dict[PeerId, float] = {}  # until when
        # Messages of this rate window, by sender and type.
        self._counts: Counter[tuple[PeerId, int]] = Counter()
        self._counts_since_s = 0.0
        self._first_node = trio.Event()
        self._refreshed_s: float | None = None
        swarm.serve(protocol, Served(self._serve, DHT_STREAMS_PER_PEER_MAX, DHT_STREAMS_MAX))

    # -- for the network -----------------------------------------------------------------------

    def on_peer(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """A peer that we are connected to serves the table too."""
        self._table.on_answer(peer, position_of_peer(peer), addresses)
        self._unreachable.pop(peer, None)
        if len(self._table):
            self._first_node.set()

    async def run(self) -> None:
        """Stay known: look ourselves up at the start and now and then, forget what is out of
        date.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            while True:
                await self._first_node.wait()
                for pause_s in JOIN_REFRESHES_S:
                    await trio.sleep(pause_s)
                    await self.refresh(QUESTION_TIMEOUT_S * 4)
                while len(self._table):
                    await trio.sleep(
                        REFRESH_S * self._rng.uniform(1 - REFRESH_JITTER, 1 + REFRESH_JITTER)
                    )
                    await self.refresh(QUESTION_TIMEOUT_S * 4)
                    await self._refresh_one_bucket()
                self._first_node = trio.Event()

    def status(self) -> RoutingStatus:
        return RoutingStatus(
            len(self._table), self._records.keys_count, len(self._records), self._refreshed_s
        )

    async def refresh(self, timeout_s: float) -> int:
        """Look ourselves up: the nodes near us learn of us and we of them; the size of the table
        then.
        """
        with trio.move_on_after(timeout_s):
            await self._walk_to(encode_peer_id(self._swarm.peer_id))
            self._refreshed_s = trio.current_time()
        return len(self._table)

    async def find_closest(self, key: bytes, timeout_s: float) -> list[PeerAddress]:
        lookup = self._lookup(key)
        with trio.move_on_after(timeout_s):
            await self._walk(lookup, message_of(Message.FIND_NODE, key), lambda peers: None)
        return [PeerAddress(PeerId(found.peer), found.addresses) for found in lookup.closest()]

    async def announce(self, key: bytes, timeout_s: float) -> int:
        """How many nodes now remember us as a provider of `key`, each having said so; we ourselves
        not counted.
        """
        own = self._own_addresses()
        if not own:
            return 0
        request = message_of(Message.ADD_PROVIDER, key)
        add_peers(request.providerPeers, [(self._swarm.peer_id, own)])
        self._records.add(key, self._swarm.peer_id, own, trio.current_time())
        taken = 0
        limiter = trio.CapacityLimiter(CLOSEST_MAX // 2)

        async def tell(candidate: Candidate) -> None:
            nonlocal taken
            async with limiter:
                reply = await self._ask(candidate, request, is_reply_needed=False)
            taken += reply is not None

        with trio.move_on_after(timeout_s):
            closest = await self._walk_to(key)
            async with trio.open_nursery() as nursery:
                for candidate in closest:
                    nursery.start_soon(tell, candidate)
        return taken

    @asynccontextmanager
    async def find(self, key: bytes, count: int, timeout_s: float) -> AsyncIterator[ProviderLookup]:
        """Ask afresh who provides `key`; the walk runs beside the caller and ends with its
        block.
        """
        send, receive = trio.open_memory_channel[PeerAddress](count)
        found = ProviderLookup(receive)
        scope = trio.CancelScope(deadline=trio.current_time() + timeout_s)
        self._swarm.start_soon(self._find, key, count, scope, send, found)
        try:
            yield found
        finally:
            scope.cancel()
            receive.close()

    async def _find(
        self,
        key: bytes,
        count: int,
        scope: trio.CancelScope,
        send: trio.MemorySendChannel[PeerAddress],
        found: ProviderLookup,
    ) -> None:
        seen = {self._swarm.peer_id}

        def on_providers(providers: Iterable[tuple[PeerId, tuple[str, ...]]]) -> None:
            found.asked_count += 1
            for peer, addresses in providers:
                if peer in seen or len(seen) > count:
                    continue
                seen.add(peer)
                try:
                    send.send_nowait(PeerAddress(peer, addresses))
                except trio.BrokenResourceError:
                    scope.cancel()  # The caller left.
            if len(seen) > count:
                scope.cancel()

        with send, scope:
            held = self._records.get(key, trio.current_time())
            on_providers([(PeerId(peer), addresses) for peer, addresses in held])
            request = message_of(Message.GET_PROVIDERS, key)
            await self._walk(self._lookup(key), request, on_providers)

    # -- walking -------------------------------------------------------------------------------

    def _lookup(self, key: bytes) -> Lookup:
        position = position_of_key(key)
        lookup = Lookup(position, self._swarm.peer_id, position_of_peer)
        lookup.add(
            (node.peer, node.addresses) for node in self._table.closest(position, CLOSEST_MAX)
        )
        return lookup

    async def _walk_to(self, key: bytes) -> list[Candidate]:
        lookup = self._lookup(key)
        await self._walk(lookup, message_of(Message.FIND_NODE, key), lambda peers: None)
        return lookup.closest()

    async def _walk(
        self,
        lookup: Lookup,
        request: Message,
        on_providers: Callable[[Iterable[tuple[PeerId, tuple[str, ...]]]], None],
    ) -> None:
        """Ask until the nearest nodes have answered; each answer's providers are handed on at
        once.
        """
        progress = trio.Event()

        async def ask(candidate: Candidate) -> None:
            reply = await self._ask(candidate, request)
            if reply is None:
                lookup.on_failure(candidate.peer)
            else:
                lookup.on_answer(candidate.peer)
                now = trio.current_time()
                named = list(read_peers(reply.closerPeers))
                lookup.add(
                    (peer, addresses)
                    for peer, addresses in named
                    if self._unreachable.get(peer, now) <= now
                )
                on_providers(read_peers(reply.providerPeers))
            progress.set()

        async with trio.open_nursery() as nursery:
            while not lookup.is_done:
                progress = trio.Event()
                for candidate in lookup.next_candidates():
                    nursery.start_soon(ask, candidate)
                await progress.wait()
            nursery.cancel_scope.cancel()

    async def _ask(
        self, candidate: Candidate, request: Message, *, is_reply_needed: bool = True
    ) -> Message | None:
        """One question to one node; None if it did not answer, which the table hears of too."""
        peer = PeerId(candidate.peer)
        reply: Message | None = None
        try:
            with trio.move_on_after(QUESTION_TIMEOUT_S):
                reply = await self._exchange(
                    peer, candidate.addresses, request, is_reply_needed=is_reply_needed
                )
        except P2phubError:
            pass  # Its fault or its absence: either way it did not answer.
        except Exception:
            self._swarm.count_fault(peer)
        position = position_of_peer(peer)
        if reply is not None:
            self._unreachable.pop(peer, None)
            self._table.on_answer(peer, position, self._addresses_of(peer) or candidate.addresses)
        elif is_reply_needed:
            self._table.on_failure(peer, position)
            if len(self._unreachable) >= _UNREACHABLE_MAX:
                del self._unreachable[next(iter(self._unreachable))]
            self._unreachable[peer] = trio.current_time() + UNREACHABLE_S
        return reply

    async def _exchange(
        self, peer: PeerId, addresses: tuple[str, ...], request: Message, *, is_reply_needed: bool
    ) -> Message | None:
        connection = self._swarm.connections.newest(peer)
        if connection is None:
            with trio.move_on_after(DIAL_TIMEOUT_S):
                connection = await self._swarm.dial(peer, addresses)
        if connection is None:
            return None
        stream = await self._swarm.open(connection, self._protocol)
        try:
            await send_message(stream, request)
            await stream.close()
            reply = await receive_message(stream)
        except BaseException:
            stream.abort()
            raise
        # Others' nodes take an announcement without a word and close the stream; ours say it back,
        # or reset.
        return Message() if reply is None and not is_reply_needed else reply

    async def _refresh_one_bucket(self) -> None:
        """Look up a random key at a random distance, so that far buckets hold nodes that still
        answer.
        """
        bits = self._rng.randint(0, min(self._table.depth(), _REFRESH_BITS_MAX))
        while True:
            key = self._rng.randbytes(32)
            if self._table.shared_bits(position_of_key(key)) == bits:
                break
        with trio.move_on_after(QUESTION_TIMEOUT_S * 4):
            await self._walk_to(key)

    async def _expire(self) -> None:
        while True:
            await trio.sleep(_EXPIRE_S)
            self._records.expire(trio.current_time())

    # -- answering -----------------------------------------------------------------------------

    async def _serve(self, stream: Stream) -> None:
        """Questions of one peer on one stream, until it closes it, breaks a rule or falls
        silent.
        """
        while True:
            try:
                with trio.fail_after(SERVE_IDLE_S):
                    request = await receive_message(stream)
                    if request is None:
                        return
                    await send_message(stream, self._answer(stream, request))
                await trio.lowlevel.checkpoint()  # others first, however many questions wait
            except trio.TooSlowError:
                raise PeerTimeout("nothing was asked on a stream of the table") from None

    def _answer(self, stream: Stream, request: Message) -> Message:
        """The reply to a question.

        Raises ProtocolViolation, which resets the stream: values, floods, nonsense.
        """
        peer, kind = stream.peer, request.type
        self._count(peer, -1, DHT_QUERIES_PER_10_S)
        if kind == Message.PING:
            return message_of(Message.PING, b"")
        if not 0 < len(request.key) <= DHT_KEY_BYTES_MAX:
            raise ProtocolViolation(f"a key of {len(request.key)} bytes")
        if kind == Message.FIND_NODE:
            return self._reply_closer(peer, request)
        if kind == Message.GET_PROVIDERS:
            reply = self._reply_closer(peer, request)
            add_peers(reply.providerPeers, self._records.get(request.key, trio.current_time()))
            return reply
        if kind == Message.ADD_PROVIDER:
            self._count(peer, kind, DHT_ANNOUNCEMENTS_PER_10_S)
            return self._take_record(stream, request)
        raise ProtocolViolation("values are not kept here")

    def _reply_closer(self, peer: PeerId, request: Message) -> Message:
        reply = message_of(request.type, request.key)
        nodes = self._table.closest(position_of_key(request.key), CLOSEST_MAX + 1)
        add_peers(
            reply.closerPeers,
            [(node.peer, node.addresses) for node in nodes if node.peer != peer][:CLOSEST_MAX],
        )
        return reply

    def _take_record(self, stream: Stream, request: Message) -> Message:
        """Keep the sender's own record and say it back, which is how it knows."""
        peer, host = stream.peer, stream.remote_host
        network = "" if host is None else network_of(host)
        for provider, addresses in read_peers(request.providerPeers):
            if provider == peer and self._records.add(
                request.key, peer, addresses, trio.current_time(), network
            ):
                return message_of(Message.ADD_PROVIDER, request.key)
        raise ProtocolViolation(
            "a record that is not kept: not the sender's own, or there is no room"
        )

    def _count(self, peer: PeerId, kind: int, count_max: int) -> None:
        now = trio.current_time()
        if now - self._counts_since_s > _RATE_WINDOW_S:
            self._counts.clear()
            self._counts_since_s = now
        self._counts[peer, kind] += 1
        if self._counts[peer, kind] > count_max:
            raise ProtocolViolation(f"more than {count_max} messages in {_RATE_WINDOW_S:.0f} s")
