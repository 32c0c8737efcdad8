"""Whom a MemoryNode knows: peers that it connected to, and publishers by names of its own."""

from __future__ import annotations

import trio

from p2phub.errors import (
    BadPetname,
    PeerUnreachable,
    PetnameTaken,
    UnknownPetname,
    UsageError,
)
from p2phub.node.api import PeerView, PublisherView
from p2phub.proto.names import (
    PetnameReference,
    PublisherReference,
    ReleaseReference,
    is_petname,
)
from tests.memory_world import World


class Acquaintances:
    """The part of `NodeApi` that is about others."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._connected: dict[str, PeerView] = {}
        self._bootstrap: list[str] = []
        self._followed: dict[str, str] = {}  # publisher ids by petname
        self._own: set[str] = set()

    # ---- peers ----------------------------------------------------------------------------------

    async def peers(self) -> tuple[PeerView, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._connected.values())

    async def connect(self, address: str) -> PeerView:
        await trio.lowlevel.checkpoint()
        head, found, peer_id = address.rpartition("/p2p/")
        if not found:
            raise UsageError(f"{address[:80]!a} does not end in /p2p/<peer id>")
        if peer_id not in self.world.nodes or not self.world.reachable:
            raise PeerUnreachable(f"{address} does not answer", address=address)
        self._connected[peer_id] = PeerView(
            peer_id=peer_id,
            addresses=(head,),
            direction="out",
            received_bytes=0,
            sent_bytes=0,
            down_bytes_per_s=0.0,
            downloads=0,
        )
        return self._connected[peer_id]

    async def bootstrap_list(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._bootstrap)

    async def bootstrap_add(self, address: str) -> tuple[str, ...]:
        if "/p2p/" not in address:
            raise UsageError(f"{address[:80]!a} does not end in /p2p/<peer id>")
        if address not in self._bootstrap:
            self._bootstrap.append(address)
        return await self.bootstrap_list()

    async def bootstrap_remove(self, address: str) -> tuple[str, ...]:
        if address not in self._bootstrap:
            raise UsageError(f"{address[:80]!a} is not among the bootstrap peers")
        self._bootstrap.remove(address)
        return await self.bootstrap_list()

    # ---- trust ----------------------------------------------------------------------------------

    async def trust_add(self, publisher: PublisherReference, petname: str) -> PublisherView:
        await trio.lowlevel.checkpoint()
        if not is_petname(petname):
            raise BadPetname(f"{petname[:80]!a} cannot be a petname")
        if self._followed.get(petname, publisher.publisher_id) != publisher.publisher_id:
            raise PetnameTaken(f"{petname} already stands for another publisher", petname=petname)
        self._followed[petname] = publisher.publisher_id
        return self._view(petname)

    async def trust_list(self) -> tuple[PublisherView, ...]:
        await trio.lowlevel.checkpoint()
        return tuple(self._view(petname) for petname in sorted(self._followed))

    async def trust_remove(self, petname: str) -> PublisherView:
        await trio.lowlevel.checkpoint()
        if petname not in self._followed:
            raise UnknownPetname(f"no publisher is called {petname} here", petname=petname)
        view = self._view(petname)
        del self._followed[petname]
        return view

    async def trust_reset(self, petname: str | None) -> tuple[PublisherView, ...]:
        await trio.lowlevel.checkpoint()
        if petname is not None and petname not in self._followed:
            raise UnknownPetname(f"no publisher is called {petname} here", petname=petname)
        return tuple(self._view(name) for name in self._followed if petname in (None, name))

    def _view(self, petname: str) -> PublisherView:
        publisher_id = self._followed[petname]
        signed = self.world.signed.get(publisher_id, {})
        return PublisherView(
            publisher_id=publisher_id,
            petname=petname,
            own=publisher_id in self._own,
            freshness="fresh" if signed else "unknown",
            releases=sum(len(known) for known in signed.values()),
            seen_from=len(self.world.nodes) - 1,
            last_seen=None,
        )

    def _publisher(self, reference: PetnameReference | ReleaseReference) -> tuple[str, str | None]:
        if isinstance(reference, PetnameReference):
            publisher_id = self._followed.get(reference.petname)
            if publisher_id is None:
                raise UnknownPetname(
                    f"no publisher is called {reference.petname} here", petname=reference.petname
                )
            return publisher_id, reference.petname
        names = [p for p, owner in self._followed.items() if owner == reference.publisher_id]
        return reference.publisher_id, names[0] if names else None
