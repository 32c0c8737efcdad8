"""`resolve`: the head and the bytes of one file, verified chunk by chunk as they come.

The reply begins with the first verified bytes, or after FIRST_BYTES_S without them, since clients
give up on headers after 10 s but wait longer for a body that has begun. Once begun, a failure can
only close the connection before Content-Length is reached, which every client notices.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import trio

from p2phub.errors import P2phubError, expected
from p2phub.gateway.catalog import Listing, file_error
from p2phub.gateway.http import (
    Headers,
    HttpError,
    Message,
    Receive,
    Request,
    Send,
    describe,
    error_response,
    send_response,
    start_message,
)
from p2phub.gateway.ranges import Unsatisfiable, parse_range
from p2phub.node.api import FileView, NodeApi

log = logging.getLogger(__name__)

FIRST_BYTES_S: Final = 5.0  # half of what clients wait for headers
READERS_MAX: Final = 64  # files streamed at once; more wait for their turn
CONTENT_TYPE: Final = "application/octet-stream"


@dataclass(slots=True)
class FileCounters:
    """What was served, for /metrics."""

    bytes_sent: int = 0
    files_begun: int = 0
    files_cut_short: int = 0  # the reply had begun, and then no more bytes came
    readers: int = 0


class Files:
    """Serves files of releases."""

    def __init__(self, node: NodeApi) -> None:
        self._node = node
        self._turns = trio.CapacityLimiter(READERS_MAX)
        self.counters = FileCounters()

    async def serve(
        self, request: Request, listing: Listing, path: str, receive: Receive, send: Send
    ) -> None:
        """Answer HEAD or GET for one file. Raises HttpError while nothing was sent yet."""
        commit = (("x-repo-commit", listing.commit),)
        file = listing.files.get(path)
        if file is None:
            raise HttpError(404, "EntryNotFound", f"{path[:200]!a} is not in this release", commit)
        headers = head_lines(listing, file)
        if _is_known(request.headers.get("if-none-match"), file):
            await send(start_message(304, CONTENT_TYPE, file.size, headers))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        try:
            wanted = parse_range(_range_of(request, file), file.size)
        except Unsatisfiable:
            length = ("content-range", f"bytes */{file.size}")
            raise HttpError(
                416, "RangeNotSatisfiable", f"the file has {file.size} bytes", (*commit, length)
            ) from None
        start, stop = wanted or (0, file.size)
        status = 200 if wanted is None else 206
        if wanted is not None:
            headers = (*headers, ("content-range", f"bytes {start}-{stop - 1}/{file.size}"))
        begun = start_message(status, CONTENT_TYPE, stop - start, headers)
        if request.method == "HEAD" or start == stop:
            await send(begun)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        reply = _FileReply(begun, send, self.counters)
        async with trio.open_nursery() as nursery:
            # Whoever closed the connection wants no more bytes fetched.
            nursery.start_soon(reply.cancel_when_gone, receive, nursery.cancel_scope)
            nursery.start_soon(reply.begin_late)
            await self._send_bytes(request, listing, file, start, stop, reply)
            nursery.cancel_scope.cancel()

    async def _send_bytes(
        self,
        request: Request,
        listing: Listing,
        file: FileView,
        start: int,
        stop: int,
        reply: _FileReply,
    ) -> None:
        counters = self.counters
        async with self._turns:
            counters.readers += 1
            try:
                async with self._node.read(listing.reference, file.path, start, stop) as chunks:
                    await reply.send_all(chunks, stop - start)
            except Exception as error:
                known = expected(error)
                if known is None:
                    raise
                await reply.fail(request, known)
            finally:
                counters.readers -= 1


def head_lines(listing: Listing, file: FileView) -> Headers:
    """What huggingface_hub and the others read of a file before its bytes."""
    etag = f'"{file.sha256.hex()}"'
    return (
        ("etag", etag),
        ("x-linked-etag", etag),
        ("x-linked-size", str(file.size)),
        ("x-repo-commit", listing.commit),
        ("accept-ranges", "bytes"),
        # A browser saves it: a page that a stranger published must not run as one of ours.
        ("content-disposition", "attachment"),
        ("content-security-policy", "sandbox"),
    )


class _FileReply:
    """One reply with a file's bytes, which begins once: at its first bytes or when those take too
    long.
    """

    def __init__(self, start: Message, send: Send, counters: FileCounters) -> None:
        self._start = start
        self._send = send
        self._counters = counters
        self._starting = trio.Lock()
        self._begun = False
        self._is_ending = False

    async def cancel_when_gone(self, receive: Receive, scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        # Also told in the middle of our last send, which has to close the connection then, or to
        # make it ready for the next request.
        if not self._is_ending:
            scope.cancel()

    async def begin(self) -> None:
        async with self._starting:
            if not self._begun:
                self._begun = True
                self._counters.files_begun += 1
                await self._send(self._start)

    async def begin_late(self) -> None:
        await trio.sleep(FIRST_BYTES_S)
        await self.begin()

    async def send_all(self, chunks: AsyncIterator[bytes], length: int) -> None:
        """Send `length` bytes; each send waits until the client has taken enough of those
        before.
        """
        sent = 0
        async for chunk in chunks:
            await self.begin()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent += len(chunk)
            self._counters.bytes_sent += len(chunk)
        assert sent == length, f"the node gave {sent} bytes of {length}"
        self._is_ending = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def fail(self, request: Request, error: P2phubError) -> None:
        """Say what is wrong, where that can still be said."""
        async with self._starting:
            if not self._begun:
                self._begun = self._is_ending = True
                await send_response(error_response(file_error(error)), request.method, self._send)
                return
        self._counters.files_cut_short += 1
        log.warning("a file was cut short: %s", describe(error))
        # Returning before Content-Length is reached closes the connection.


def _range_of(request: Request, file: FileView) -> str | None:
    condition = request.headers.get("if-range")
    if condition is not None and condition != f'"{file.sha256.hex()}"':
        return None
    return request.headers.get("range")


def _is_known(header: str | None, file: FileView) -> bool:
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return f'"{file.sha256.hex()}"' in tags or "*" in tags
