"""Nodes on a network in memory, and peers beside them that speak the protocol as a test likes.

The nodes are whole: real sessions, lanes over loopback, stores on disk. Only streams are in memory,
so that a peer can do what no node of ours would.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from p2phub.config import settings
from p2phub.digest import Digest, digest
from p2phub.net.base import Stream
from p2phub.net.memory import MemoryHub, MemoryNetwork
from p2phub.node.node import Node, open_node
from p2phub.node.sessions import Session
from p2phub.paths import Home
from p2phub.proto import protocols
from p2phub.proto.fetch import ChunksWanted, decode_chunk_request, reply_header
from p2phub.proto.frames import FrameReader
from p2phub.proto.messages import Have, Unchoke
from p2phub.store.base import Store

Script = Callable[[Session], Awaitable[None]]  # what a peer does once a session was greeted

M = TypeVar("M")


@asynccontextmanager
async def node_of(
    hub: MemoryHub, name: str, folder: Path, *, store: Store | None = None, up_rate: int = 0
) -> AsyncIterator[Node]:
    """A running node of a hub whose home is `folder`. up_rate: bytes per second, 0: no limit."""
    chosen = settings("", {"lane_listen": "127.0.0.1:0", "mdns": False, "up_rate": up_rate})
    network = hub.network(name)
    async with open_node(Home(folder), chosen, network=network, store=store) as running:
        yield running


@asynccontextmanager
async def peer_of(
    hub: MemoryHub, name: str, *, session: Script | None = None, chunks: dict[Digest, bytes] | None
) -> AsyncIterator[MemoryNetwork]:
    """A peer that serves documents as a node does and then follows a script in every session."""
    network = hub.network(name)

    async def on_session(stream: Stream) -> None:
        greeted = Session(stream)
        await greeted.greet()
        assert session is not None
        await session(greeted)

    async def on_chunks(stream: Stream) -> None:
        frames = FrameReader()
        while data := await stream.receive():
            for request in frames.feed(data):
                wanted = decode_chunk_request(request)
                assert isinstance(wanted, ChunksWanted)
                for name in wanted.digests:
                    await stream.send(answer(chunks or {}, name))

    if session is not None:
        network.serve(protocols.SWARM, on_session)
    if chunks is not None:
        network.serve(protocols.CHUNK, on_chunks)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network
        nursery.cancel_scope.cancel()


def answer(chunks: dict[Digest, bytes], name: Digest) -> bytes:
    """One answer of /p2phub/chunk/1."""
    chunk = chunks.get(name)
    return reply_header(None) if chunk is None else reply_header(len(chunk)) + chunk


async def session_with(network: MemoryNetwork, victim: Node) -> Session:
    """A greeted session that `network` opened: it may ask and request."""
    session = Session(await network.open(victim._network.peer_id, protocols.SWARM))
    await session.greet()
    return session


async def receive_until(session: Session, kind: type[M]) -> M:
    """Read on until a message of a kind comes."""
    while True:
        message = await session.receive()
        assert message is not None, f"the session ended before a {kind}"
        if isinstance(message, kind):
            return message


async def claim_all(session: Session, pages: tuple[Digest, ...]) -> None:
    """Say that every entry of these pages is held, and give a slot."""
    await session.send(*(Have(page, b"\xff" * 2048) for page in pages), Unchoke())


def named(*chunks: bytes) -> dict[Digest, bytes]:
    return {digest(chunk): chunk for chunk in chunks}
