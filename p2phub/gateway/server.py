"""The gateway's socket: hypercorn's HTTP on trio, with bounds that it leaves to others.

hypercorn reads and writes HTTP; here are the port (probed, and told back when it was 0), how many
connections there may be, how long a client may take nothing, and an end that no client can hold up:
hypercorn shields each send from cancellation.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from p2phub.config import HostPort
from p2phub.errors import BadSetting, PortInUse

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 256  # clients keep 8 to 16 each
IDLE_TIMEOUT_S: Final = 15.0  # between requests, and for the whole head of one
SEND_TIMEOUT_S: Final = 120.0  # a client that takes not one byte for so long is gone
SEND_BYTES: Final = 1 << 18  # per turn, so that progress shows within a large chunk
HEAD_BYTES_MAX: Final = 16 * 1024  # of one request
BACKLOG: Final = 128


def listen(address: HostPort) -> socket.socket:
    """A listening socket. Raises PortInUse, BadSetting where the address is not this machine's."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise BadSetting(
            f"gateway: {address.host} cannot be resolved: {error.strerror or error}",
            setting="gateway",
        ) from error
    family, kind, protocol, _, name = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        # Lets a new daemon take the port while old connections linger; a living listener still
        # keeps it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(name)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"gateway: {address} is taken by another program: "
                "stop it, or choose another with --gateway",
                address=str(address),
            ) from error
        raise BadSetting(
            f"gateway: cannot listen on {address}: {error.strerror}", setting="gateway"
        ) from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Where clients reach a listening socket: on this machine, if it listens everywhere."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{HostPort(host, port)}"


async def serve_gateway(
    app: Callable[..., Awaitable[None]],
    listening: socket.socket,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve an ASGI application until cancelled; starts with its url."""
    config = _config()
    context = WorkerContext(None)
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    slots = trio.Semaphore(CONNECTIONS_MAX)
    open_streams: set[_ClientStream] = set()

    async def serve(stream: _ClientStream) -> None:
        try:
            # Any: hypercorn's types know trio's own streams only; it uses what _ClientStream has.
            client: Any = stream
            await _Connection(wrapped, config, context, ConnectionState({}), client)
        except Exception:
            log.exception("a connection of the gateway failed")
        finally:
            open_streams.discard(stream)
            slots.release()
            await trio.aclose_forcefully(stream)

    with trio.socket.from_stdlib_socket(listening) as listener:
        task_status.started(url_of(listening))
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    await slots.acquire()
                    client, _ = await _accept(listener)
                    stream = _ClientStream(client)
                    open_streams.add(stream)
                    nursery.start_soon(serve, stream)
            finally:
                # A send that is shielded ends when its socket does.
                for stream in open_streams:
                    stream.socket.close()
    raise AssertionError("the gateway's listener ended without an error")


async def _accept(listener: trio.socket.SocketType) -> tuple[trio.socket.SocketType, object]:
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            # Out of descriptors, or the client was gone before it was accepted.
            log.warning("the gateway could not accept a connection: %s", error.strerror)
            await trio.sleep(0.1)


def _config() -> Config:
    config = Config()
    config.keep_alive_timeout = IDLE_TIMEOUT_S
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("p2phub.gateway.http")
    config.websocket_max_message_size = 0
    return config


class _Connection(TCPServer):
    """hypercorn's connection, which otherwise keeps its place until the idle timeout after its
    client left.
    """

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


class _ClientStream(trio.abc.HalfCloseableStream):
    """A client's socket; a send that makes no progress for SEND_TIMEOUT_S breaks it."""

    def __init__(self, client: trio.socket.SocketType) -> None:
        self._stream = trio.SocketStream(client)
        self.socket = client

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with memoryview(data) as view:
            for start in range(0, len(view), SEND_BYTES):
                with (
                    trio.move_on_after(SEND_TIMEOUT_S) as scope,
                    view[start : start + SEND_BYTES] as part,
                ):
                    try:
                        await self._stream.send_all(part)
                    except trio.BusyResourceError:
                        # hypercorn locks its sends, and closes without the lock.
                        raise trio.ClosedResourceError("the connection is being closed") from None
                if scope.cancelled_caught:
                    self.socket.close()
                    raise trio.BrokenResourceError("the client takes no bytes")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
