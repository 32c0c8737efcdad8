"""Whom a MemoryNode knows: through whom it joins, and publishers by names of its own."""

from __future__ import annotations

import trio

from p2phub.errors import BadPetname, PetnameTaken, UnknownPetname, UsageError
from p2phub.node.acquaintances_api import PublisherView
from p2phub.proto.names import (
    PetnameReference,
    PublisherReference,
    ReleaseReference,
    is_petname,
)
from tests.memory_world import World


class MemoryBootstrap:
    """See `BootstrapApi`."""

    def __init__(self) -> None:
        self._addresses: list[str] = []

    async def list(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._addresses)

    async def add(self, address: str) -> tuple[str, ...]:
        if "/p2p/" not in address:
            raise UsageError(f"{address[:80]!a} does not end in /p2p/<peer id>")
        if address not in self._addresses:
            self._addresses.append(address)
        return await self.list()

    async def remove(self, address: str) -> tuple[str, ...]:
        if address not in self._addresses:
            raise UsageError(f"{address[:80]!a} is not among the bootstrap peers")
        self._addresses.remove(address)
        return await self.list()


class MemoryTrust:
    """See `TrustApi`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.followed: dict[str, str] = {}  # publisher ids by petname
        self.own: set[str] = set()

    async def add(self, publisher: PublisherReference, petname: str) -> PublisherView:
        await trio.lowlevel.checkpoint()
        if not is_petname(petname):
            raise BadPetname(f"{petname[:80]!a} cannot be a petname")
        if self.followed.get(petname, publisher.publisher_id) != publisher.publisher_id:
            raise PetnameTaken(f"{petname} already stands for another publisher", petname=petname)
        self.followed[petname] = publisher.publisher_id
        return self._view(petname)

    async def list(self) -> tuple[PublisherView, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._view(petname) for petname in sorted(self.followed))

    async def remove(self, petname: str) -> PublisherView:
        await trio.lowlevel.checkpoint()
        if petname not in self.followed:
            raise UnknownPetname(f"no publisher is called {petname} here", petname=petname)
        view = self._view(petname)
        del self.followed[petname]
        return view

    async def reset(self, petname: str | None) -> tuple[PublisherView, ...]:
        await trio.lowlevel.checkpoint()
        if petname is not None and petname not in self.followed:
            raise UnknownPetname(f"no publisher is called {petname} here", petname=petname)
        return tuple(self._view(name) for name in self.followed if petname in (None, name))

    def _view(self, petname: str) -> PublisherView:
        publisher_id = self.followed[petname]
        signed = self._world.signed.get(publisher_id, {})
        return PublisherView(
            publisher_id=publisher_id,
            petname=petname,
            own=publisher_id in self.own,
            freshness="fresh" if signed else "unknown",
            releases=sum(len(known) for known in signed.values()),
            seen_from=len(self._world.nodes) - 1,
            last_seen=None,
        )

    def publisher(self, reference: PetnameReference | ReleaseReference) -> tuple[str, str | None]:
        """The publisher id that a reference means, and its petname here."""
        if isinstance(reference, PetnameReference):
            publisher_id = self.followed.get(reference.petname)
            if publisher_id is None:
                raise UnknownPetname(
                    f"no publisher is called {reference.petname} here", petname=reference.petname
                )
            return publisher_id, reference.petname
        names = [p for p, owner in self.followed.items() if owner == reference.publisher_id]
        return reference.publisher_id, names[0] if names else None
