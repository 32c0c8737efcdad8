"""What the doors may ask of those whom a node knows, and the values they get back: part of
`NodeApi`, under the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from p2phub.proto.names import PublisherReference


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherView:
    """One publisher whom this user named."""

    publisher_id: str
    petname: str
    own: bool  # its keys are in this home
    freshness: str  # "fresh", "stale", "expired", "halted" or "unknown"
    releases: int  # signed versions known
    seen_from: int
    last_seen: float | None  # seconds since the epoch; None: never reached


class BootstrapApi(Protocol):
    """The addresses through which a node joins the network."""

    async def list(self) -> tuple[str, ...]: ...

    async def add(self, address: str) -> tuple[str, ...]:
        """Keep an address for this and later starts; all addresses now kept. Raises UsageError."""
        ...

    async def remove(self, address: str) -> tuple[str, ...]:
        """Forget an address; all addresses now kept. Raises UsageError where it is not kept."""
        ...


class TrustApi(Protocol):
    """The publishers whom a user named, and follows."""

    async def add(self, publisher: PublisherReference, petname: str) -> PublisherView:
        """Name a publisher and begin to follow it; does not wait for any peer.

        Raises PetnameTaken, BadPetname.
        """
        ...

    async def list(self) -> tuple[PublisherView, ...]: ...

    async def remove(self, petname: str) -> PublisherView:
        """Forget a petname; what was fetched stays. Raises UnknownPetname."""
        ...

    async def reset(self, petname: str | None) -> tuple[PublisherView, ...]:
        """Begin anew with one publisher, or with all where the floor was lost.

        Raises UnknownPetname.
        """
        ...
