"""A gateway on a real port over nodes in memory, and a plain client for it."""

from __future__ import annotations

import http.client
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import trio

from p2phub.config import HostPort
from p2phub.gateway.app import Gateway
from p2phub.gateway.catalog import commit_of
from p2phub.gateway.server import listen, serve_gateway
from p2phub.node.api import Kind, ReleaseTerms
from p2phub.proto.names import PublisherReference, publisher_id_text
from tests.memory_node import MemoryNode
from tests.memory_world import World, signed_files

PUBLISHER = publisher_id_text(bytes(range(32)))


@dataclass(frozen=True)
class Reply:
    """A reply, whole."""

    status: int
    headers: dict[str, str]  # by lower-case name
    body: bytes


def write_model(folder: Path, seed: int = 1) -> dict[str, bytes]:
    """A small release with folders, an empty file and one of several chunks; its files by path."""
    rng = random.Random(seed)
    files = {
        "README.md": b"# a model\n",
        "config.json": b'{"model_type": "none"}',
        "empty.txt": b"",
        "weights/model.safetensors": rng.randbytes(300_000),
        "weights/extra/más 1.bin": rng.randbytes(70_000),
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return files


async def publish(
    node: MemoryNode, folder: Path, name: str, version: str = "1.0", kind: Kind = "model"
) -> str:
    """Publish a folder as `lab/<name>`; the commit it has at the gateway."""
    terms = ReleaseTerms(kind=kind, license="MIT", tags=("tiny",))
    prepared = await node.publish_prepare(folder, terms, lambda progress: None)
    files = signed_files(name, version, prepared.manifest)
    await node.publish_commit(PUBLISHER, name, version, files, "lab")
    return commit_of(prepared.manifest)


@dataclass
class Served:
    """A running gateway."""

    url: str
    node: MemoryNode
    gateway: Gateway

    async def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Reply:
        """One request on a connection of its own; header names are given with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await trio.to_thread.run_sync(self._ask, path, method, body, named)

    def _ask(self, path: str, method: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        address = urlsplit(self.url)
        assert address.hostname is not None
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, found, reply.read())
        finally:
            connection.close()

    async def connect(self) -> trio.SocketStream:
        """A bare connection, for what no client library sends."""
        address = urlsplit(self.url)
        assert address.hostname is not None and address.port is not None
        return await trio.open_tcp_stream(address.hostname, address.port)

    async def send_raw(self, data: bytes) -> bytes:
        """All that comes back for some bytes, until the gateway closes or is silent for a
        second.
        """
        received = bytearray()
        async with await self.connect() as stream:
            await stream.send_all(data)
            while True:
                with trio.move_on_after(1) as scope:
                    part = await stream.receive_some()
                if scope.cancelled_caught or not part:
                    return bytes(received)
                received += part


@asynccontextmanager
async def serving(node: MemoryNode) -> AsyncIterator[Served]:
    """A gateway over `node` on a free port."""
    gateway = Gateway(node)
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_gateway, gateway, listen(HostPort("127.0.0.1", 0)))
        yield Served(url, node, gateway)
        with trio.fail_after(5):
            nursery.cancel_scope.cancel()


async def following(world: World) -> MemoryNode:
    """A node that knows the publisher `lab` and holds nothing."""
    node = MemoryNode(world, "12D3KooWFollower")
    await node.trust.add(PublisherReference(PUBLISHER), "lab")
    return node
