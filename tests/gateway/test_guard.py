"""The gateway against pages, proxies and clients that mean no good."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived

from p2phub.gateway.server import CONNECTIONS_MAX, HEAD_BYTES_MAX
from tests.gateway.serving import following, publish, serving, write_model
from tests.memory_node import MemoryNode
from tests.memory_world import World

PATHS = "/api/models/lab/tiny/paths-info/main"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7777",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.2",
        "user@127.0.0.1",
        "127.0.0.1:port",
        "[::1",
        "localhost, evil.example",
        "local\thost",
        "",
    ],
)
async def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    async with serving(MemoryNode(World())) as served:
        reply = await served.ask("/healthz", Host=host)
    assert reply.status == 403 and reply.headers["x-error-code"] == "WrongHost"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:80"])
async def test_names_of_this_machine_are_answered(host: str) -> None:
    async with serving(MemoryNode(World())) as served:
        assert (await served.ask("/healthz", Host=host)).status == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1", "http://localhost:1"]
)
async def test_a_page_from_elsewhere_is_refused(origin: str) -> None:
    async with serving(MemoryNode(World())) as served:
        reply = await served.ask("/api/models", Origin=origin)
    assert reply.status == 403 and reply.headers["x-error-code"] == "ForeignOrigin"
    assert not any(name.startswith("access-control-") for name in reply.headers)


async def test_our_own_page_may_ask() -> None:
    async with serving(MemoryNode(World())) as served:
        assert (await served.ask("/api/models", Origin=served.url)).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_fetch_metadata_of_another_site_is_refused(site: str) -> None:
    async with serving(MemoryNode(World())) as served:
        assert (await served.ask("/", Sec_Fetch_Site=site)).status == 403
        assert (await served.ask("/", Sec_Fetch_Site="none")).status == 200


async def test_method_overrides_and_other_methods_change_nothing() -> None:
    async with serving(MemoryNode(World())) as served:
        assert (await served.ask("/", X_HTTP_Method_Override="DELETE")).status == 200
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            reply = await served.ask("/api/models", method, b"")
            assert reply.status == 405 and reply.headers["allow"] == "GET, HEAD"


async def test_a_web_socket_is_refused() -> None:
    async with serving(MemoryNode(World())) as served:
        answer = await served.send_raw(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Origin: https://evil.example\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 403")


async def test_a_request_without_end_is_cut_off_at_its_bound(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    async with serving(await following(world)) as served:
        async with await served.connect() as stream:
            await stream.send_all(
                f"POST {PATHS} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
                "Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode()
            )
            sent = 0
            with trio.fail_after(10):
                try:
                    while sent < 1 << 30:
                        await stream.send_all(b"10000\r\n" + b"p" * 0x10000 + b"\r\n")
                        sent += 0x10000
                except trio.BrokenResourceError:
                    pass
            assert sent < 32 << 20
        assert (await served.ask("/healthz")).status == 200


async def test_a_declared_body_that_is_too_long_is_refused(tmp_path: Path) -> None:
    world = World()
    write_model(tmp_path)
    await publish(MemoryNode(world), tmp_path, "tiny")
    form = "application/x-www-form-urlencoded"
    async with serving(await following(world)) as served:
        reply = await served.ask(PATHS, "POST", b"p" * ((1 << 20) + 1), Content_Type=form)
    assert reply.status == 413


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Bad Header: 1\r\n",
        b"Host: evil.example\r\n",
        b" folded: 1\r\n",
    ],
)
async def test_a_malformed_head_is_refused_and_the_connection_closed(lines: bytes) -> None:
    async with serving(MemoryNode(World())) as served:
        answer = await served.send_raw(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
        assert answer[9:12] in (b"400", b"403", b"501"), answer[:100]
        assert (await served.ask("/healthz")).status == 200


async def test_two_lengths_do_not_smuggle_a_second_request() -> None:
    async with serving(MemoryNode(World())) as served:
        answer = await served.send_raw(
            b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n"
        )
    assert b"p2phub_" not in answer
    assert answer.count(b"HTTP/1.1 200") == 0


async def test_a_megabyte_of_headers_is_refused() -> None:
    async with serving(MemoryNode(World())) as served:
        async with await served.connect() as stream:
            with trio.fail_after(5):
                try:
                    await stream.send_all(
                        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 20)
                    )
                    answer = await stream.receive_some()
                except trio.BrokenResourceError:
                    answer = b""
        assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 431"))
        assert HEAD_BYTES_MAX < 1 << 20
        assert (await served.ask("/healthz")).status == 200


async def test_more_connections_than_allowed_wait_and_are_then_served() -> None:
    async with serving(MemoryNode(World())) as served:
        idle = [await served.connect() for _ in range(CONNECTIONS_MAX)]
        async with await served.connect() as late:
            await late.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with trio.move_on_after(0.2) as scope:
                await late.receive_some()
            assert scope.cancelled_caught
            for stream in idle[:8]:
                await stream.aclose()
            with trio.fail_after(5):
                assert (await late.receive_some()).startswith(b"HTTP/1.1 200")
        for stream in idle[8:]:
            await stream.aclose()


async def test_a_client_that_reads_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "large.bin").write_bytes(bytes(32 << 20))
    node = MemoryNode(world)
    await publish(node, tmp_path, "large")
    async with serving(node) as served:
        stream = await served.connect()
        request = b"GET /lab/large/resolve/main/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await stream.send_all(request)
        with trio.fail_after(5):
            while not served.gateway._files.counters.bytes_sent:
                await trio.lowlevel.checkpoint()
    # Leaving `serving` ended within its five seconds.
    await stream.aclose()


async def test_names_of_strangers_are_escaped_on_the_page(tmp_path: Path) -> None:
    world = World()
    (tmp_path / "a").write_bytes(b"a")
    node = MemoryNode(world, "<script>alert(1)</script>\u202e")
    await publish(node, tmp_path, "tiny")
    async with serving(node) as served:
        reply = await served.ask("/")
    assert b"<script" not in reply.body and b"\\u202e" in reply.body
    assert "default-src 'none'" in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", b"403"), ("127.0.0.1", b"200"), ("[::1]", b"200")]
)
async def test_the_same_holds_over_http_2(host: str, status: bytes) -> None:
    async with serving(MemoryNode(World())) as served, await served.connect() as stream:
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        head = [
            (":method", "GET"),
            (":authority", host),
            (":scheme", "http"),
            (":path", "/healthz"),
        ]
        client.send_headers(1, [pair for pair in head if pair[1]], end_stream=True)
        await stream.send_all(client.data_to_send())
        seen: list[bytes] = []
        with trio.fail_after(5):
            while not seen:
                for event in client.receive_data(await stream.receive_some()):
                    if isinstance(event, ResponseReceived):
                        seen.append(dict(event.headers)[b":status"])
        assert seen == [status]
