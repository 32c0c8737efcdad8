"""From a reference to a digest: which publisher, which version, who may hold it.

Names go through signed metadata; content ids are their own proof and need none; a SHA-256 is asked
of peers and proven when the file is complete.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from p2phub.core.discovery.keys import KeyKind, provider_keys
from p2phub.core.trust.freshness import Freshness
from p2phub.core.trust.releases import ReleaseStatement
from p2phub.digest import Digest
from p2phub.errors import (
    EquivocationFound,
    MetadataExpired,
    MetadataIncomplete,
    NoProvider,
    P2phubError,
    RollbackRefused,
    UnknownPublisher,
)
from p2phub.net.base import Network, PeerAddress, parse_peer_address
from p2phub.node.api import Signer
from p2phub.node.documents import Documents
from p2phub.node.publishers import Publishers, Seen
from p2phub.node.search import Search
from p2phub.node.tasks import open_tasks
from p2phub.paths import Home
from p2phub.proto.names import (
    ContentReference,
    FileReference,
    PetnameReference,
    Reference,
    ReleaseReference,
    parse_publisher_id,
)
from p2phub.trust.follower import FreshView
from p2phub.trust.petnames import Petnames

# After these, what is held still counts, as far as its age allows: the follower decides.
_HELD_STATE_SERVES = (
    EquivocationFound,
    MetadataExpired,
    MetadataIncomplete,
    NoProvider,
    RollbackRefused,
    UnknownPublisher,
)

RECENT_S = 60.0  # a refresh this young is not repeated for a mere look
# How long a mere look waits for newer than the fresh state held. One window for silent peers fits
# in, and it ends before the gateway gives its reader up.
LOOK_S = 6.5
ANSWERS_FEW = 3  # fewer peers than this agreeing on a publisher's last word is said to the user


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means now."""

    digest: Digest  # of a manifest, an object or a chunk
    text: str  # the reference with the version that it means
    statement: ReleaseStatement | None  # None: no name was involved
    signer: Signer | None
    warnings: tuple[str, ...] = ()


class Resolver:
    """Resolves references for one node."""

    def __init__(
        self,
        network: Network,
        home: Home,
        publishers: Publishers,
        petnames: Petnames,
        documents: Documents,
    ) -> None:
        self._network = network
        self._home = home
        self._publishers = publishers
        self._petnames = petnames
        self._documents = documents
        self._refreshed_s: dict[str, float] = {}  # publisher id: when, by the event loop's clock
        self._seen: dict[str, Seen] = {}
        self._unanswered_s: dict[str, float] = {}  # publisher id: when a look was in vain

    @asynccontextmanager
    async def search(
        self, kinds: Sequence[tuple[KeyKind, bytes]], named: Sequence[str]
    ) -> AsyncIterator[Search]:
        """A running search for the providers of some names. named: multiaddrs to ask first.

        Raises UsageError.
        """
        keys = [key for kind, name in kinds for key in provider_keys(kind, name)]
        addresses = merge_addresses(named)
        async with open_tasks() as nursery:
            search = Search(self._network, keys=keys, named=addresses)
            nursery.start_soon(search.run)
            yield search
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def open(
        self,
        reference: Reference,
        peers: Sequence[str] = (),
        *,
        recent_s: float = 0.0,
        allow_yanked: bool = False,
    ) -> AsyncIterator[tuple[Resolved, Search]]:
        """What `reference` means, and a running search for who holds it.

        recent_s: a refresh of the publisher's metadata that young is good enough.
        Raises UnknownPetname, UnknownPublisher, ReleaseNotFound, NoProvider and what else makes
        metadata untrusted.
        """
        match reference:
            case ContentReference(digest):
                async with self.search([(KeyKind.MANIFEST, digest)], peers) as search:
                    yield Resolved(digest, str(reference), None, None), search
            case FileReference(sum_sha256):
                async with self.search([(KeyKind.SHA256, sum_sha256)], peers) as search:
                    digest = await self._documents.find_file(sum_sha256, search)
                    yield Resolved(digest, str(reference), None, None), search
            case PetnameReference() | ReleaseReference():
                release = self.as_release(reference)
                named = (*peers, *release.peers)
                resolved, more = await self._resolve_name(
                    reference, release, named, recent_s, allow_yanked
                )
                async with self.search(
                    [(KeyKind.MANIFEST, resolved.digest)], (*named, *more)
                ) as search:
                    yield resolved, search

    def as_release(self, reference: PetnameReference | ReleaseReference) -> ReleaseReference:
        """The full form of a petname reference. Raises UnknownPetname."""
        if isinstance(reference, ReleaseReference):
            return reference
        entry = self._petnames.resolve(reference.petname)
        return ReleaseReference(entry.publisher_id, reference.name, reference.version, entry.peers)

    def is_own(self, publisher_id: str) -> bool:
        """Whether this home holds the publisher's repository, so that nobody knows better."""
        return self._home.publisher(publisher_id).exists()

    async def refresh(
        self, publisher_id: str, named: Sequence[str], *, recent_s: float = 0.0
    ) -> tuple[FreshView, int, tuple[str, ...]]:
        """The publisher's state, refreshed unless that was done lately: (view, peers that agreed,
        warnings).

        What is held is used, with a warning, where nobody answers: of a fresh state, a caller that
        gives recent_s waits LOOK_S at most, and not again within recent_s. Raises NoProvider where
        nothing is held either.
        """
        follower = self._publishers.follower(publisher_id)
        last_s = self._refreshed_s.get(publisher_id)
        seen = self._seen.get(publisher_id)
        if self.is_own(publisher_id):
            return await trio.to_thread.run_sync(follower.known, time.time()), 0, ()
        if seen is not None and last_s is not None and trio.current_time() - last_s < recent_s:
            return seen.view, seen.peers_count, ()
        key = parse_publisher_id(publisher_id)
        wait_s = await self._patience_s(publisher_id, recent_s)
        try:
            with trio.move_on_after(wait_s) as patience:
                async with self.search([(KeyKind.PUBLISHER, key)], named) as search:
                    seen = await self._publishers.refresh(publisher_id, search)
            if patience.cancelled_caught:
                if wait_s:
                    self._unanswered_s[publisher_id] = trio.current_time()
                raise NoProvider("no peer has answered")
            assert seen is not None
        except _HELD_STATE_SERVES as error:
            try:
                view = await trio.to_thread.run_sync(follower.known, time.time())
            except P2phubError:
                raise error from None
            return view, 0, (f"the publisher's newest word could not be had: {error}",)
        self._refreshed_s[publisher_id] = trio.current_time()
        self._seen[publisher_id] = seen
        return seen.view, seen.peers_count, ()

    async def _patience_s(self, publisher_id: str, recent_s: float) -> float:
        """How long a refresh may last; inf: until it ends by itself."""
        if not recent_s:
            return math.inf
        follower = self._publishers.follower(publisher_id)
        try:
            held = await trio.to_thread.run_sync(follower.known, time.time())
        except P2phubError:
            return math.inf
        if held.state is not Freshness.FRESH:
            return math.inf
        asked_s = self._unanswered_s.get(publisher_id, -math.inf)
        return 0.0 if trio.current_time() - asked_s < recent_s else LOOK_S

    def signer_of(self, statement: ReleaseStatement, state: Freshness, peers_count: int) -> Signer:
        names = self._petnames.names_of(statement.publisher_id)
        return Signer(
            publisher_id=statement.publisher_id,
            petname=names[0] if names else None,
            name=statement.name,
            version=statement.version,
            status=statement.status.value,
            reason=statement.reason,
            freshness=state.value,
            seen_from=peers_count,
        )

    async def _resolve_name(
        self,
        asked: PetnameReference | ReleaseReference,
        release: ReleaseReference,
        named: Sequence[str],
        recent_s: float,
        allow_yanked: bool,
    ) -> tuple[Resolved, tuple[str, ...]]:
        publisher_id = release.publisher_id
        view, peers_count, warnings = await self.refresh(publisher_id, named, recent_s=recent_s)
        own = self.is_own(publisher_id)

        async def look(search: Search | None) -> ReleaseStatement:
            return await self._publishers.resolve(
                publisher_id, release.name, release.version, search, allow_yanked=allow_yanked
            )

        try:
            statement = await look(None)
        except NoProvider:  # the name's own file is not here yet
            key = parse_publisher_id(publisher_id)
            async with self.search([(KeyKind.PUBLISHER, key)], named) as search:
                statement = await look(search)
        notes = list(warnings)
        if view.state is not Freshness.FRESH:
            notes.append(
                f"the publisher's last signed word is {view.state.value}: "
                f"{view.fresh_until:%Y-%m-%d}"
            )
        if not own and 0 < peers_count < ANSWERS_FEW:
            peers = "1 peer" if peers_count == 1 else f"{peers_count} peers"
            notes.append(f"the publisher's newest word was seen from {peers} only")
        text = str(replace(asked, version=statement.version))
        signer = self.signer_of(statement, view.state, peers_count)
        return Resolved(
            statement.manifest_digest, text, statement, signer, tuple(notes)
        ), view.peers


def merge_addresses(named: Sequence[str]) -> list[PeerAddress]:
    """Multiaddrs by peer. Raises UsageError for one that is none."""
    by_peer: dict[str, PeerAddress] = {}
    for text in named:
        address = parse_peer_address(text)
        known = by_peer.get(address.peer)
        addresses = (*(known.addresses if known else ()), *address.addresses)
        by_peer[address.peer] = PeerAddress(address.peer, tuple(dict.fromkeys(addresses)))
    return list(by_peer.values())
