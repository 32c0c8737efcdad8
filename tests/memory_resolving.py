"""What a reference means to a MemoryNode: which release, who signed it, which file of it."""

from __future__ import annotations

from collections.abc import Container

import trio

from p2phub.digest import Digest
from p2phub.errors import NoProvider, ReleaseNotFound, ReleaseYanked, UnknownPublisher
from p2phub.node.api import Signer, VersionsView
from p2phub.proto.names import (
    ContentReference,
    FileReference,
    PetnameReference,
    Reference,
    ReleaseReference,
)
from tests.memory_acquaintances import MemoryTrust
from tests.memory_world import Release, World


class MemoryResolver:
    """Resolves for one node. manifests: those that it holds."""

    def __init__(self, world: World, trust: MemoryTrust, manifests: Container[Digest]) -> None:
        self._world = world
        self._trust = trust
        self._manifests = manifests

    async def versions(self, reference: PetnameReference | ReleaseReference) -> VersionsView:
        await trio.lowlevel.checkpoint()
        publisher_id, petname = self._trust.publisher(reference)
        if publisher_id not in self._world.signed or not self._world.reachable:
            raise UnknownPublisher("no peer that answered knows this publisher", asked=[])
        known = self._world.signed[publisher_id].get(reference.name)
        if not known:
            raise ReleaseNotFound(f"nothing is published as {reference.name}", name=reference.name)
        return VersionsView(
            publisher_id=publisher_id,
            petname=petname,
            name=reference.name,
            freshness="fresh",
            versions=tuple(known[version] for version in reversed(known)),
        )

    async def resolve(
        self, reference: Reference, allow_yanked: bool
    ) -> tuple[Release, Signer | None, str | None]:
        """The release, who signed it, and the path where one file was named."""
        await trio.lowlevel.checkpoint()
        if isinstance(reference, ContentReference | FileReference):
            return self._resolve_content(reference)
        view = await self.versions(reference)
        chosen = [
            version
            for version in view.versions
            if (version.version == reference.version)
            or (reference.version is None and version.status != "yanked")
        ]
        if not chosen:
            raise ReleaseNotFound(
                f"{reference.name}@{reference.version} is not published", name=reference.name
            )
        if chosen[0].status == "yanked" and not allow_yanked:
            raise ReleaseYanked(f"{reference} was withdrawn: {chosen[0].reason}")
        signer = Signer(
            publisher_id=view.publisher_id,
            petname=view.petname,
            name=view.name,
            version=chosen[0].version,
            status=chosen[0].status,
            reason=chosen[0].reason,
            freshness=view.freshness,
            seen_from=1,
        )
        return self._world.releases[chosen[0].manifest], signer, None

    def _resolve_content(
        self, reference: ContentReference | FileReference
    ) -> tuple[Release, Signer | None, str | None]:
        nothing = NoProvider(
            f"none of 2 peers asked in 0.1 s holds {reference}",
            asked=["12D3KooWOther"],
            seconds=0.1,
        )
        if isinstance(reference, ContentReference) and reference.digest in self._world.releases:
            if reference.digest not in self._manifests and not self._world.reachable:
                raise nothing
            return self._world.releases[reference.digest], None, None
        for release in self._world.releases.values():
            for record in release.files.values():
                if isinstance(reference, ContentReference):
                    found = record.object == reference.digest
                else:
                    found = record.sha256 == reference.sha256
                if found:
                    return release, None, record.path
        raise nothing
