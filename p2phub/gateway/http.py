"""Requests and replies over ASGI: what the gateway's pages and routes are written in.

The HTTP parser is hypercorn's (h11); this only gives its messages names. Source: ASGI 3.0, HTTP &
WebSocket format.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, unquote_to_bytes

import trio

from p2phub.errors import P2phubError

Scope: TypeAlias = MutableMapping[str, Any]  # as ASGI has it; read by Request alone
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = tuple[tuple[str, str], ...]

BODY_BYTES_MAX: Final = 1 << 20  # of a request: a list of paths is the largest we take
BODY_TIMEOUT_S: Final = 10.0  # for the whole body of a request, on one machine
PATH_BYTES_MAX: Final = 8 << 10
ERROR_MESSAGE_MAX: Final = 500  # characters of X-Error-Message: header lines are bounded in clients

# On every reply: nothing here may be framed, guessed at as a script, or read by a page from
# elsewhere.
SAFETY_HEADERS: Final[Headers] = (
    ("x-content-type-options", "nosniff"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
)


class HttpError(Exception):
    """A request that is refused, with what huggingface_hub needs to raise the right exception."""

    def __init__(self, status: int, code: str, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # X-Error-Code
        self.message = message  # X-Error-Message, shown to the user
        self.headers = headers


@dataclass(frozen=True)
class Request:
    """One request, its path cut at the slashes before anything in it was unquoted."""

    method: str
    raw_path: bytes
    query_string: bytes
    header_list: tuple[tuple[bytes, bytes], ...]
    server_host: str  # the address the connection came in at

    @classmethod
    def from_scope(cls, scope: Scope) -> Request:
        server = scope.get("server") or ("", 0)
        return cls(
            method=scope["method"],
            raw_path=scope["raw_path"],
            query_string=scope["query_string"],
            header_list=tuple((name.lower(), value) for name, value in scope["headers"]),
            server_host=str(server[0]),
        )

    @cached_property
    def headers(self) -> dict[str, str]:
        """Headers by lower-case name; the first of several wins."""
        found: dict[str, str] = {}
        for name, value in self.header_list:
            found.setdefault(name.decode("latin-1"), value.decode("latin-1").strip())
        return found

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The path's parts, each unquoted for itself, so that `refs%2Fpr%2F1` stays one.

        Raises HttpError.
        """
        if len(self.raw_path) > PATH_BYTES_MAX or not self.raw_path.startswith(b"/"):
            raise HttpError(400, "BadRequest", "the path is too long or not absolute")
        try:
            parts = [
                unquote_to_bytes(part).decode("utf-8") for part in self.raw_path[1:].split(b"/")
            ]
        except UnicodeDecodeError:
            raise HttpError(400, "BadRequest", "the path is not UTF-8") from None
        if any("\0" in part for part in parts):
            raise HttpError(400, "BadRequest", "the path holds a zero byte")
        if len(parts) > 1 and parts[-1] == "":
            parts.pop()
        return tuple(parts)

    @cached_property
    def query(self) -> dict[str, list[str]]:
        """The query's values by name. Raises HttpError."""
        try:
            return parse_qs(self.query_string.decode("ascii"), max_num_fields=64)
        except ValueError:
            raise HttpError(400, "BadRequest", "the query cannot be read") from None

    def asked(self, name: str) -> bool:
        """Whether a flag of the query is on: requests' `True` and httpx's `true` alike."""
        return self.query.get(name, [""])[-1].lower() in ("true", "1")


@dataclass(frozen=True, slots=True)
class Response:
    """One whole reply."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Headers = ()
    length: int | None = field(default=None)  # Content-Length where the body is not sent (HEAD)


def json_response(value: object, headers: Headers = ()) -> Response:
    return Response(200, json.dumps(value, ensure_ascii=True).encode("ascii"), headers=headers)


def error_response(error: HttpError) -> Response:
    body = json.dumps({"error": error.message}).encode("ascii")
    headers = (
        *error.headers,
        ("x-error-code", error.code),
        ("x-error-message", header_text(error.message)),
    )
    return Response(error.status, body, headers=headers)


def header_text(text: str) -> str:
    """`text` as a header's value: printable ASCII, bounded; strangers' words may be in it."""
    shown = "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)
    return shown[:ERROR_MESSAGE_MAX]


def start_message(status: int, content_type: str, length: int, headers: Headers) -> Message:
    """The message that begins a reply of `length` bytes."""
    lines = [
        ("content-type", content_type),
        ("content-length", str(length)),
        *SAFETY_HEADERS,
        *headers,
    ]
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode("ascii"), value.encode("latin-1")) for name, value in lines],
    }


async def send_response(response: Response, method: str, send: Send) -> None:
    """Send a whole reply; to HEAD its head only."""
    length = len(response.body) if response.length is None else response.length
    await send(start_message(response.status, response.content_type, length, response.headers))
    body = b"" if method == "HEAD" else response.body
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def read_body(receive: Receive) -> bytes:
    """A request's body. Raises HttpError for one that is too long or too slow."""
    body = bytearray()
    with trio.move_on_after(BODY_TIMEOUT_S):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpError(400, "BadRequest", "the request ended early")
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX:
                raise HttpError(
                    413, "TooLarge", f"a request has at most {BODY_BYTES_MAX} bytes", _CLOSE
                )
            if not message.get("more_body", False):
                return bytes(body)
    raise HttpError(408, "RequestTimeout", "the request's body took too long", _CLOSE)


def describe(error: P2phubError) -> str:
    """An expected error in one line."""
    return f"{error} ({error.kind})"


_CLOSE: Final[Headers] = (("connection", "close"),)
