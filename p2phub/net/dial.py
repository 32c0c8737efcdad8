"""Reach a peer at any of its addresses: all are tried, each a moment after the one before, the
first handshake wins.

Source: RFC 8305 (happy eyeballs), with whole handshakes in place of TCP connections.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from p2phub.errors import P2phubError
from p2phub.net.addresses import Endpoint, endpoint_from_socket, endpoint_from_text
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX

STAGGER_S = 0.15  # between attempts: longer than a handshake on one continent
ATTEMPT_TIMEOUT_S = 6.0  # three SYNs and the handshake; longer is not worth a slot
_RESOLVE_TIMEOUT_S = 3.0  # a name server that is slower is as good as none

Reached = TypeVar("Reached")


async def first_to_answer(
    addresses: Sequence[str],
    attempt: Callable[[Endpoint], Awaitable[Reached]],
    discard: Callable[[Reached], None],
) -> tuple[list[Reached], dict[str, str]]:
    """Run `attempt` on every address with a stagger: the first result, if any, and the failures.

    Results that come too late for the caller are given to `discard`. No time limit over all: the
    caller has one.
    """
    failures: dict[str, str] = {}
    winners: list[Reached] = []
    try:
        await _race(addresses, attempt, discard, winners, failures)
    except BaseException:
        for reached in winners:
            discard(reached)
        raise
    return winners, failures


async def _race(
    addresses: Sequence[str],
    attempt: Callable[[Endpoint], Awaitable[Reached]],
    discard: Callable[[Reached], None],
    winners: list[Reached],
    failures: dict[str, str],
) -> None:
    async with trio.open_nursery() as nursery:

        async def try_one(endpoint: Endpoint, done: trio.Event) -> None:
            try:
                with trio.fail_after(ATTEMPT_TIMEOUT_S):
                    reached = await attempt(endpoint)
            except trio.TooSlowError:
                failures[str(endpoint)] = f"no answer within {ATTEMPT_TIMEOUT_S:.0f} s"
            except (OSError, P2phubError) as error:
                failures[str(endpoint)] = str(error)
            else:
                if winners:
                    discard(reached)
                else:
                    winners.append(reached)
                    nursery.cancel_scope.cancel()
            finally:
                done.set()

        for endpoint in await _resolve(addresses, failures):
            done = trio.Event()
            nursery.start_soon(try_one, endpoint, done)
            with trio.move_on_after(STAGGER_S):
                await done.wait()  # a refusal is quick: the next address need not wait for it


async def connect_tcp(endpoint: Endpoint) -> trio.SocketStream:
    """A TCP connection to an IP address. Raises OSError."""
    family = socket.AF_INET if endpoint.kind == "ip4" else socket.AF_INET6
    connection = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await connection.connect((endpoint.host, endpoint.port))
        return trio.SocketStream(connection)
    except BaseException:
        connection.close()
        raise


async def _resolve(addresses: Sequence[str], failures: dict[str, str]) -> list[Endpoint]:
    """Names become IPs, in order and each once, at most ADDRESSES_PER_PEER_MAX in all."""
    found: dict[Endpoint, None] = {}
    families = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
    for address in addresses:
        endpoint = endpoint_from_text(address)
        if endpoint.kind not in families:
            found[endpoint] = None
            continue
        try:
            with trio.fail_after(_RESOLVE_TIMEOUT_S):
                answers = await trio.socket.getaddrinfo(
                    endpoint.host,
                    endpoint.port,
                    family=families[endpoint.kind],
                    type=socket.SOCK_STREAM,
                )
        except trio.TooSlowError:
            failures[address] = "its name was not resolved in time"
        except OSError as error:
            failures[address] = f"its name was not resolved: {error}"
        else:
            found.update((endpoint_from_socket(answer[4]), None) for answer in answers)
    return list(found)[:ADDRESSES_PER_PEER_MAX]
