"""Providers of one key as they are found, whoever looks for them."""

from __future__ import annotations

import trio

from p2phub.net.base import PeerAddress


class ProviderLookup:
    """A `Lookup` of p2phub.net.base: ends when whoever looks closes the other end."""

    def __init__(self, found: trio.MemoryReceiveChannel[PeerAddress]) -> None:
        self._found = found
        self.asked_count = 0

    def __aiter__(self) -> ProviderLookup:
        return self

    async def __anext__(self) -> PeerAddress:
        try:
            return await self._found.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StopAsyncIteration from None
