"""The command line's end of the control socket: plain blocking sockets, so that no event loop is
imported.

Leaving the context, or Ctrl-C, closes the socket, which cancels what the daemon is doing for this
command.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from p2phub.control.protocol import (
    DATA_BYTES_MAX,
    REPLY_BYTES_MAX,
    BadRequest,
    Json,
    decode_line,
    encode_line,
    raised,
)
from p2phub.errors import DaemonNotRunning
from p2phub.paths import Home

CONNECT_TIMEOUT_S: Final = 5.0  # on one machine: only a daemon that hangs needs longer
_RECEIVE_BYTES: Final = 1 << 18


class ControlClient:
    """One connection to the daemon of a home folder."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    @classmethod
    def connect(cls, home: Home) -> Self:
        """Raises DaemonNotRunning when nobody listens on the home's socket."""
        path = home.control_socket
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise DaemonNotRunning(
                f"no daemon answers for {home.root}",
                home=str(home.root),
                reason=error.strerror or str(error),
            ) from None
        connection.settimeout(None)  # how long a command may take is the user's to say: Ctrl-C
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def call(
        self,
        method: str,
        on_progress: Callable[[Json], None] | None = None,
        on_data: Callable[[bytes], None] | None = None,
        **params: object,
    ) -> Any:
        """The result of a method, as JSON.

        Raises the P2phubError that the daemon sent, DaemonNotRunning when it went away, and what
        the callbacks raise.
        """
        with _ended():
            self._connection.sendall(encode_line({"method": method, "params": params}))
        while True:
            reply = decode_line(self._line())
            if "result" in reply:
                return reply["result"]
            if "error" in reply:
                raise raised(reply["error"])
            if "progress" in reply:
                if on_progress is not None and isinstance(reply["progress"], dict):
                    on_progress(reply["progress"])
            elif "data" in reply:
                data = self._exactly(reply["data"])
                if on_data is not None:
                    on_data(data)
            else:
                raise BadRequest("the daemon answered in an unknown form")

    def _line(self) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            if searched > REPLY_BYTES_MAX:
                raise BadRequest("the daemon's answer is too long")
            self._receive()
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _exactly(self, count: object) -> bytes:
        if not isinstance(count, int) or not 0 <= count <= DATA_BYTES_MAX:
            raise BadRequest("the daemon sent more bytes at once than agreed")
        while len(self._received) < count:
            self._receive()
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _receive(self) -> None:
        with _ended():
            data = self._connection.recv(_RECEIVE_BYTES)
            if not data:
                raise EOFError
        self._received += data


@contextmanager
def _ended() -> Iterator[None]:
    """Not around callbacks: a pipe of theirs that breaks is not the daemon's end."""
    try:
        yield
    except (ConnectionError, EOFError):
        raise DaemonNotRunning(
            "the daemon ended before the command was done; what was verified is kept, "
            "start it and run the command again"
        ) from None
