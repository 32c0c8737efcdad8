"""The daemon's end of the control socket: who may speak, one request at a time, cancelled when its
client goes.

Only processes of the daemon's own user may connect: the socket is 0600 in a folder that is 0700,
and the kernel's word on the other end's user is asked for too. A method that fails unexpectedly
ends that request alone, with a traceback in the log.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from pathlib import Path
from typing import Final, NoReturn

import trio

from p2phub.control.methods import METHODS, DaemonFacts, Params
from p2phub.control.protocol import (
    CLIENTS_MAX,
    PROGRESS_INTERVAL_S,
    REQUEST_BYTES_MAX,
    BadRequest,
    Json,
    bug_object,
    decode_line,
    encode_line,
    error_object,
    plain,
)
from p2phub.errors import expected
from p2phub.node.api import NodeApi

log = logging.getLogger(__name__)

RECEIVE_BYTES: Final = 1 << 16
REPLY_TIMEOUT_S: Final = 60.0  # a client that reads nothing for so long is gone or stopped
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED; unix(7)


async def serve_control(
    node: NodeApi,
    facts: DaemonFacts,
    path: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve commands on the unix socket `path`, whose folder is ours alone; a socket left there
    before is replaced."""
    listener = _listen(path)
    clients = trio.Semaphore(CLIENTS_MAX)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await _serve_client(node, facts, stream, clients)

    try:
        task_status.started()
        async with trio.open_nursery() as nursery:
            await trio.serve_listeners(serve, [listener], handler_nursery=nursery)
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - one entry of a local folder
    raise AssertionError("a listener ended without an error")


def _listen(path: Path) -> trio.SocketListener:
    path.unlink(missing_ok=True)  # The home's lock is ours, so whoever left it is dead.
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(CLIENTS_MAX)
    except OSError:
        listening.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def _serve_client(
    node: NodeApi, facts: DaemonFacts, stream: trio.SocketStream, clients: trio.Semaphore
) -> None:
    if not _is_own_user(stream):
        return
    reply = _Reply(stream)
    try:
        try:
            clients.acquire_nowait()
        except trio.WouldBlock:
            busy = BadRequest(f"{CLIENTS_MAX} commands run already: try again later")
            await reply.send({"error": error_object(busy)})
            return
        try:
            await _serve_requests(node, facts, stream, reply)
        finally:
            clients.release()
    except _ClientGone:
        pass  # The client went away; there is nobody to tell.


async def _serve_requests(
    node: NodeApi, facts: DaemonFacts, stream: trio.SocketStream, reply: _Reply
) -> None:
    received = bytearray()
    while True:
        try:
            line = await _line(stream, received)
            if line is None:
                return
            request = decode_line(line)
        except BadRequest as error:
            await reply.send({"error": error_object(error)})
            return
        if not await _answer(node, facts, stream, reply, request, received):
            return


async def _answer(
    node: NodeApi,
    facts: DaemonFacts,
    stream: trio.SocketStream,
    reply: _Reply,
    request: Json,
    received: bytearray,
) -> bool:
    """Carry out one request; False if the client went away or talked out of turn."""
    answered = False

    async def watch(scope: trio.CancelScope) -> None:
        # A client says nothing while it waits: what arrives is its end, or a fault of the same
        # weight.
        try:
            early = bytes(received) or await stream.receive_some(1)
        except trio.BrokenResourceError:
            early = b""
        if answered:
            received.extend(early)  # The next request came before this task was cancelled.
        else:
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, nursery.cancel_scope)
        nursery.start_soon(reply.send_progress)
        try:
            try:
                outcome = {"result": plain(await _call(node, facts, reply, request))}
            except _ClientGone:
                raise
            except Exception as error:
                known = expected(error)
                if known is None:
                    log.exception("the command %.40r failed", request.get("method"))
                outcome = {"error": bug_object(error) if known is None else error_object(known)}
            await reply.flush()
            answered = True
            await reply.send(outcome)
        except _ClientGone:
            answered = False
        nursery.cancel_scope.cancel()
    return answered


async def _call(node: NodeApi, facts: DaemonFacts, reply: _Reply, request: Json) -> object:
    name = request.get("method")
    method = METHODS.get(name) if isinstance(name, str) else None
    if method is None:
        raise BadRequest(f"there is no method {name!r:.40}: the daemon may be of another version")
    return await method(node, facts, Params(request.get("params", {})), reply)


async def _line(stream: trio.SocketStream, received: bytearray) -> bytes | None:
    """The next line, without its end; None where the client is done.

    Raises BadRequest for one that is too long.
    """
    searched = 0
    while (end := received.find(b"\n", searched)) < 0:
        searched = len(received)
        if searched > REQUEST_BYTES_MAX:
            raise BadRequest(f"a request is longer than {REQUEST_BYTES_MAX} bytes")
        try:
            data = await stream.receive_some(RECEIVE_BYTES)
        except trio.BrokenResourceError:
            return None
        if not data:
            return None
        received += data
    line = bytes(received[:end])
    del received[: end + 1]
    return line


def _is_own_user(stream: trio.SocketStream) -> bool:
    packed = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    assert isinstance(packed, bytes)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    if uid in (os.geteuid(), 0):
        return True
    log.warning("a process of user %d tried to control this daemon", uid)
    return False


class _ClientGone(Exception):
    """The client closed its end, or reads nothing any more."""


class _Reply:
    """What goes to one client. Progress never waits; data and results do."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._newest: object | None = None  # progress not sent yet
        self._reported = trio.Event()

    def progress(self, value: object) -> None:
        self._newest = value
        self._reported.set()

    async def data(self, chunk: bytes) -> None:
        await self._send(encode_line({"data": len(chunk)}), chunk)

    async def send(self, line: Json) -> None:
        await self._send(encode_line(line))

    async def send_progress(self) -> None:
        """Send the newest progress every PROGRESS_INTERVAL_S at most, until cancelled or the
        client is gone."""
        while True:
            await self._reported.wait()
            try:
                await self.flush()
            except _ClientGone:
                return  # Whoever sends the result finds out, too.
            await trio.sleep(PROGRESS_INTERVAL_S)

    async def flush(self) -> None:
        """Send progress that waits, if any."""
        newest, self._newest, self._reported = self._newest, None, trio.Event()
        if newest is not None:
            await self.send({"progress": plain(newest)})

    async def _send(self, *parts: bytes) -> None:
        async with self._sending:
            try:
                for part in parts:
                    with trio.fail_after(REPLY_TIMEOUT_S):
                        await self._stream.send_all(part)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                raise _ClientGone from None
