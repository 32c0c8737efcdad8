"""Which release a repository id and a revision mean, as the node knows it, with the 40-digit commit
that stands for it.

The commit is the first 20 bytes of the manifest's name in hex: every node computes the same one,
and it changes with every byte of the release. What a manifest says never changes, so its listing is
kept; what a name means is asked again after NAME_TTL_S.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import trio

from p2phub.core.trust.versions import normal_version
from p2phub.digest import Digest
from p2phub.errors import (
    BadVersion,
    NetworkError,
    NoSuchFile,
    P2phubError,
    ReleaseNotFound,
    StoreError,
    TrustError,
    UnknownPetname,
    UnknownPublisher,
    UnknownReference,
    UsageError,
)
from p2phub.gateway.http import HttpError, describe
from p2phub.gateway.routes import MAIN, RepositoryReference, Route, parse_repository
from p2phub.node.api import FileView, NodeApi, ReleaseView, VersionView
from p2phub.proto.names import ContentReference

NAME_TTL_S: Final = 5.0  # how long a name means the same release without asking the node again
LISTINGS_MAX: Final = 32  # manifests whose listing is kept
# Records of all kept listings together: about 500 MB at the worst.
FILES_KEPT_MAX: Final = 1_000_000
NAMES_KEPT_MAX: Final = 1024
RESOLVE_TIMEOUT_S: Final = 8.0  # clients give up on a HEAD after 10 s
COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def commit_of(manifest: Digest) -> str:
    """The commit that clients see for a manifest."""
    return manifest[:20].hex()


@dataclass(frozen=True)
class Listing:
    """One release as the gateway shows it."""

    view: ReleaseView

    @property
    def commit(self) -> str:
        return commit_of(self.view.manifest)

    @property
    def reference(self) -> ContentReference:
        """What its bytes are read by: the name was decided when the listing was made."""
        return ContentReference(self.view.manifest)

    @cached_property
    def files(self) -> dict[str, FileView]:
        """Files by path, sorted."""
        return {file.path: file for file in self.view.files}

    @cached_property
    def folders(self) -> frozenset[str]:
        found: set[str] = set()
        for path in self.files:
            while (end := path.rfind("/")) > 0:
                path = path[:end]
                if path in found:
                    break
                found.add(path)
        return frozenset(found)


class Catalog:
    """Names and revisions resolved through a node, each once in a while."""

    def __init__(self, node: NodeApi) -> None:
        self._node = node
        self._listings: OrderedDict[Digest, Listing] = OrderedDict()
        self._names: dict[str, tuple[float, Digest]] = {}  # meaning of a reference, until then
        self._asking: dict[str, trio.Lock] = {}  # one question at a time for one reference

    async def listing(self, route: Route) -> Listing:
        """The release that a route means.

        Raises HttpError with the codes that huggingface_hub knows.
        """
        reference = parse_repository(route.id)
        with trio.move_on_after(RESOLVE_TIMEOUT_S):
            try:
                listing = await self._resolve(reference, route.revision)
            except P2phubError as error:
                raise await self._refusal(reference, route.revision, error) from error
            if listing.view.kind != route.kind:
                raise HttpError(
                    404, "RepoNotFound", f"{route.id} is a {listing.view.kind}, not a {route.kind}"
                )
            return listing
        raise HttpError(
            429,
            "StillAsking",
            f"no peer has answered about {route.id} within {RESOLVE_TIMEOUT_S:.0f} s: "
            "who publishes it may be offline; the next try asks again",
            (("ratelimit", '"resolvers";r=0;t=2'), ("retry-after", "2")),
        )

    async def versions(self, route: Route) -> tuple[VersionView, ...]:
        """The signed versions of a route's name, highest first; none for a content id.

        Raises HttpError.
        """
        reference = parse_repository(route.id)
        if isinstance(reference, ContentReference):
            return ()
        try:
            return (await self._node.versions(reference)).versions
        except P2phubError as error:
            raise await self._refusal(reference, "main", error) from error

    async def _resolve(self, reference: RepositoryReference, revision: str) -> Listing:
        if isinstance(reference, ContentReference):
            if revision not in MAIN and revision != commit_of(reference.digest):
                raise ReleaseNotFound(f"a content id has no revision {revision[:80]!a}")
            return await self._show(reference)
        if revision in MAIN:
            return await self._show(reference)
        if COMMIT.fullmatch(revision):
            known = self._known_commit(revision)
            if known is not None:
                return known
            for version in (await self._node.versions(reference)).versions:
                if commit_of(version.manifest) == revision:
                    return await self._show(replace(reference, version=version.version))
            raise ReleaseNotFound(f"no version of {reference.name} has the commit {revision}")
        try:
            return await self._show(replace(reference, version=normal_version(revision)))
        except BadVersion:
            raise ReleaseNotFound(f"{revision[:80]!a} is no version of {reference.name}") from None

    def _known_commit(self, commit: str) -> Listing | None:
        for listing in self._listings.values():
            if listing.commit == commit:
                return listing
        return None

    async def _show(self, reference: RepositoryReference) -> Listing:
        key = str(reference)
        async with self._asking.setdefault(key, trio.Lock()):
            until, manifest = self._names.get(key, (0.0, b""))
            if isinstance(reference, ContentReference):
                until, manifest = float("inf"), reference.digest
            kept = self._listings.get(manifest)
            if kept is None or until < trio.current_time():
                kept = Listing(await self._node.show(reference))
                self._keep(key, kept)
            self._listings.move_to_end(kept.view.manifest)
        if len(self._asking) > NAMES_KEPT_MAX:
            self._asking = {name: lock for name, lock in self._asking.items() if lock.locked()}
        return kept

    def _keep(self, key: str, listing: Listing) -> None:
        if len(self._names) >= NAMES_KEPT_MAX:
            self._names.clear()
        self._names[key] = (trio.current_time() + NAME_TTL_S, listing.view.manifest)
        self._listings[listing.view.manifest] = listing
        while len(self._listings) > 1 and (
            len(self._listings) > LISTINGS_MAX
            or sum(len(kept.view.files) for kept in self._listings.values()) > FILES_KEPT_MAX
        ):
            self._listings.popitem(last=False)

    async def _refusal(
        self, reference: RepositoryReference, revision: str, error: P2phubError
    ) -> HttpError:
        """What a client is told: that the revision is unknown only where the name is known."""
        if isinstance(error, ReleaseNotFound) and revision not in MAIN:
            try:
                if not isinstance(reference, ContentReference):
                    await self._node.versions(reference)
            except P2phubError:
                pass
            else:
                return HttpError(404, "RevisionNotFound", describe(error))
        return api_error(error)


def api_error(error: P2phubError) -> HttpError:
    """An expected error on /api.

    Never a 5xx: no client tries those again, and some then use half a folder.
    """
    if isinstance(error, NoSuchFile):
        return HttpError(404, "EntryNotFound", describe(error))
    missing = (ReleaseNotFound, UnknownPetname, UnknownPublisher, UnknownReference)
    if isinstance(error, (*missing, NetworkError)):
        return HttpError(404, "RepoNotFound", describe(error))
    if isinstance(error, TrustError):
        return HttpError(403, error.kind, describe(error))
    if isinstance(error, UsageError):
        return HttpError(400, error.kind, describe(error))
    return HttpError(409, error.kind, describe(error))


def file_error(error: P2phubError) -> HttpError:
    """An expected error on a file's bytes, where clients do try a 503 again."""
    if isinstance(error, NetworkError | StoreError):
        return HttpError(503, error.kind, describe(error), (("retry-after", "2"),))
    return api_error(error)
