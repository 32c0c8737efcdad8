"""Listening sockets that nobody else shares."""

from __future__ import annotations

import errno
import socket

import trio

from p2phub.errors import PortInUse
from p2phub.net.addresses import Endpoint

_BACKLOG = 256  # connections that the kernel holds for us while we are busy


def bind(endpoint: Endpoint) -> trio.socket.SocketType:
    """A socket that listens on an IP address and port. Raises PortInUse."""
    family = socket.AF_INET if endpoint.kind == "ip4" else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Restarting on a port in TIME_WAIT is meant; sharing it is not, so SO_REUSEPORT stays off
        # and bind() tells.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((endpoint.host, endpoint.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"another program listens on {endpoint.host} port {endpoint.port};"
                " stop it or choose another port",
                address=str(endpoint),
            ) from error
        raise PortInUse(
            f"cannot listen on {endpoint}: {error.strerror}", address=str(endpoint)
        ) from error
    return trio.socket.from_stdlib_socket(listener)
