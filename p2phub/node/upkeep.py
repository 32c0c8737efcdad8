"""Keeping order on the disk: what is removed, pinned and collected.

What is removed is told of no longer. Files that a user put somewhere are never touched; the
read-only trees under the home go with their release.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from p2phub.core.trust.versions import parse_version
from p2phub.digest import Digest
from p2phub.display import size_text
from p2phub.errors import NotHeld, P2phubError, StoreError, StoreFull, UsageError
from p2phub.node.announcing import Announcing
from p2phub.node.api import Progress, ProgressSink
from p2phub.node.publishers import Publishers
from p2phub.node.resolving import Resolver
from p2phub.node.trees import held_tree
from p2phub.node.upkeep_api import Freed, Pinned, Removed, ScrubReport
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text
from p2phub.proto.names import (
    ContentReference,
    PetnameReference,
    Reference,
    ReleaseReference,
)
from p2phub.store.base import PART_IDLE_S, Collected, Release, Scrubbed, Store
from p2phub.store.trees import discard_tree, remove_stale_trees

SCRUB_PERIOD_S = 30 * 24 * 3600.0  # disks rot slower, and a terabyte at 10 MB/s takes a day
SCRUB_PAUSE_S = 600.0  # between two looks whether something is due
FETCH_LEASE = "fetch"  # who holds the lease of a fetch that is under way or was interrupted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Dropped:
    """What went with some rows."""

    trees: tuple[Path, ...]
    folders: tuple[Path, ...]  # the user's, which stay
    tree_bytes: int  # that lay in those trees alone
    digests: tuple[Digest, ...]  # kept under no name any more


class Upkeep:
    """See `p2phub.node.upkeep_api.UpkeepApi`."""

    def __init__(
        self,
        home: Home,
        store: Store,
        publishers: Publishers,
        resolver: Resolver,
        announcing: Announcing,
        store_max_bytes: int,
        scrub_rate_bytes_per_s: int,
    ) -> None:
        self._scrub_rate_bytes_per_s = scrub_rate_bytes_per_s  # 0: not by itself
        self._scrubbing = trio.Lock()
        self._store_max_bytes = store_max_bytes  # 0: no limit
        self._evicting = trio.Lock()
        self._home = home
        self._store = store
        self._publishers = publishers
        self._resolver = resolver
        self._announcing = announcing

    async def remove(self, reference: Reference) -> Removed:
        """As UpkeepApi.remove."""
        rows, digests = await trio.to_thread.run_sync(self._meant, reference)
        dropped = await self._let_go(rows, digests)
        freed = await self._collect(dry_run=False, part_idle_s=0.0)
        freed = replace(freed, freed_bytes=freed.freed_bytes + dropped.tree_bytes)
        return Removed(
            references=_references(rows, digests),
            content_ids=tuple(content_id_text(digest) for digest in digests),
            trees=dropped.trees,
            folders=dropped.folders,
            freed=freed,
        )

    async def pin(self, reference: Reference, pinned: bool) -> Pinned:
        """As UpkeepApi.pin."""
        rows, digests = await trio.to_thread.run_sync(self._meant, reference)
        if not rows:
            raise NotHeld(f"{reference} was not fetched to its end: fetch it first, then pin it")
        for digest in digests:
            await trio.to_thread.run_sync(self._store.pin, digest, pinned)
        return Pinned(
            references=_references(rows, digests),
            content_ids=tuple(content_id_text(digest) for digest in digests),
            pinned=pinned,
        )

    async def collect(self, dry_run: bool) -> Freed:
        """As UpkeepApi.collect."""
        return await self._collect(dry_run=dry_run, part_idle_s=PART_IDLE_S)

    async def scrub(self, progress: ProgressSink) -> ScrubReport:
        """As UpkeepApi.scrub."""
        started_s, since_s = trio.current_time(), time.time()
        usage = await trio.to_thread.run_sync(self._store.usage)
        total_bytes = usage.data_bytes + usage.pack_bytes + usage.adopted_bytes
        read_bytes = damaged_count = 0
        while True:
            step = await self._scrub_step(since_s)
            read_bytes += step.read_bytes
            damaged_count += step.damaged_count
            progress(Progress("verify", min(read_bytes, total_bytes), total_bytes))
            if step.is_over:
                break
        seconds = trio.current_time() - started_s
        return ScrubReport(read_bytes=read_bytes, damaged_count=damaged_count, seconds=seconds)

    async def scrub_slowly(self) -> None:
        """Read everything again every SCRUB_PERIOD_S, at the rate that the settings allow, until
        cancelled.
        """
        if self._scrub_rate_bytes_per_s:
            await trio.sleep(SCRUB_PAUSE_S)  # a start has better things to do
        while self._scrub_rate_bytes_per_s:
            try:
                step = await self._scrub_step(time.time() - SCRUB_PERIOD_S)
            except StoreError as error:  # a full disk, perhaps: it is read again later
                log.warning("what is held can't be read again now: %s", error)
                step = Scrubbed(0, 0, True)
            pause_s = SCRUB_PAUSE_S if step.is_over else 0.0
            await trio.sleep(pause_s + step.read_bytes / self._scrub_rate_bytes_per_s)

    async def _scrub_step(self, since_s: float) -> Scrubbed:
        async with self._scrubbing:
            return await trio.to_thread.run_sync(lambda: self._store.scrub(since_s, time.time()))

    async def make_room(self, manifest: Digest, wanted_bytes: int) -> tuple[str, ...]:
        """Let the oldest unpinned fetched releases go until the store may take `wanted_bytes` more
        for `manifest`, whose lease is held; what went.

        Raises StoreFull, before anything went, where even that would not make room.
        """
        if not self._store_max_bytes or not wanted_bytes:
            return ()
        async with self._evicting:
            gone: list[str] = []
            if wanted_bytes <= await trio.to_thread.run_sync(self._room_bytes):
                return ()
            await trio.to_thread.run_sync(self._check_possible, manifest, wanted_bytes)
            # What nobody names goes before what somebody once asked for.
            await self._collect(dry_run=False, part_idle_s=0.0)
            for row in await trio.to_thread.run_sync(self._evictable, manifest):
                if wanted_bytes <= await trio.to_thread.run_sync(self._room_bytes):
                    break
                await self._let_go([row], [row.manifest])
                await self._collect(dry_run=False, part_idle_s=0.0)
                gone.append(row.name or content_id_text(row.manifest))
            room_bytes = await trio.to_thread.run_sync(self._room_bytes)
        if wanted_bytes > room_bytes:
            raise StoreFull(
                f"{size_text(wanted_bytes)} are to be fetched and the store has room for"
                f" {size_text(max(0, room_bytes))} of its {size_text(self._store_max_bytes)}:"
                " other transfers take the rest",
                needed=wanted_bytes, room=max(0, room_bytes), removed=gone,
            )  # fmt: skip
        return tuple(gone)

    def _room_bytes(self) -> int:
        usage = self._store.usage()
        used_bytes = usage.data_bytes + usage.part_bytes + usage.pack_bytes
        return self._store_max_bytes - used_bytes

    def _evictable(self, manifest: Digest) -> list[Release]:
        """Rows that may go to make room for `manifest`, the oldest first."""
        rows = self._store.releases()
        needed = {row.manifest for row in rows if row.is_pinned or row.origin != "fetched"}
        needed |= {digest for digest, _, _ in self._store.leases(time.time())} | {manifest}
        return sorted(
            (row for row in rows if row.manifest not in needed), key=lambda row: row.added_s
        )

    def _check_possible(self, manifest: Digest, wanted_bytes: int) -> None:
        """Raises StoreFull where `wanted_bytes` would not fit beside what must stay."""
        evictable = {row.manifest for row in self._evictable(manifest)}
        pinned = [row for row in self._store.releases() if row.manifest not in evictable]
        staying = {row.manifest for row in pinned}
        staying |= {digest for digest, _, _ in self._store.leases(time.time())}
        sizes: dict[Digest, int] = {}
        for digest in staying:
            try:
                files = held_tree(self._store, digest).files
            except P2phubError:
                continue  # a fetch that has only begun
            for file in files:
                status = self._store.status(file.object) if file.size else None
                if status is not None and self._is_own(status.path):
                    sizes[file.object] = file.size
        room_bytes = self._store_max_bytes - sum(sizes.values())
        if wanted_bytes > room_bytes:
            names = [row.name or content_id_text(row.manifest) for row in pinned if row.is_pinned]
            shown = f"; pinned: {', '.join(names[:5])}" if names else ""
            raise StoreFull(
                f"{size_text(wanted_bytes)} are to be fetched, and beside what must stay the store"
                f" may take {size_text(max(0, room_bytes))} of its"
                f" {size_text(self._store_max_bytes)}{shown}. Nothing was begun: unpin something,"
                " or raise store_max",
                needed=wanted_bytes, room=max(0, room_bytes), limit=self._store_max_bytes,
                pinned=names[:100],
            )  # fmt: skip

    def _is_own(self, path: Path | None) -> bool:
        """Whether a file counts as the store's: those in packs do, users' own do not."""
        return path is None or path.is_relative_to(self._home.store)

    async def _let_go(self, rows: Sequence[Release], digests: Sequence[Digest]) -> _Dropped:
        """As `_drop`; what is kept no longer is announced no longer."""
        dropped = await trio.to_thread.run_sync(self._drop, rows, digests)
        for digest in dropped.digests:
            self._announcing.withdraw_release(digest)
        return dropped

    async def _collect(self, *, dry_run: bool, part_idle_s: float) -> Freed:
        def work() -> Collected:
            if not dry_run:
                remove_stale_trees(self._home.releases, time.time() - PART_IDLE_S)
            return self._store.collect(time.time(), is_dry_run=dry_run, part_idle_s=part_idle_s)

        # Not cancelled half-way: it ends soon, and what it took must be told of no longer.
        with trio.CancelScope(shield=True):
            collected = await trio.to_thread.run_sync(work)
            if not dry_run:
                for gone in collected.objects:
                    self._announcing.withdraw_object(gone.object, gone.sha256)
        return Freed(
            freed_bytes=collected.freed_bytes,
            file_count=len(collected.objects),
            forgotten_count=collected.forgotten_count,
            chunk_count=collected.chunk_count,
            dry_run=dry_run,
        )

    # ---- in worker threads -----------------------------------------------------------------------

    def _meant(self, reference: Reference) -> tuple[list[Release], list[Digest]]:
        """The rows that a reference means, and their manifests; no rows: an interrupted fetch.

        Raises NotHeld, UnknownPetname, UsageError.
        """
        kept = self._store.releases()
        if isinstance(reference, PetnameReference | ReleaseReference):
            wanted = self._resolver.as_release(reference)
            versions = self._named(wanted, kept)
            digests = list(versions.values())
            labels = {f"{wanted.publisher_id}/{wanted.name}@{version}" for version in versions}
            # The same content may be kept under other names as well; where it is not kept under
            # this one, it was fetched by its content id.
            of_digests = [row for row in kept if row.manifest in digests]
            rows = [row for row in of_digests if row.name in labels] or of_digests
        else:
            digest: Digest | None
            if isinstance(reference, ContentReference):
                digest = reference.digest
            else:
                digest = self._store.object_by_sha256(reference.sha256)
            digests = [] if digest is None else [digest]
            rows = [row for row in kept if row.manifest == digest]
        leased = {digest for digest, owner, _ in self._store.leases(0.0) if owner == FETCH_LEASE}
        if not rows:
            digests = [digest for digest in digests if digest in leased]
        if not digests:
            raise NotHeld(f"{reference} is not kept here: see `p2phub ls`")
        return rows, digests

    def _named(self, wanted: ReleaseReference, kept: Sequence[Release]) -> dict[str, Digest]:
        """Manifests of one name by version: as they are kept under it, and as their publisher
        signed them.
        """
        versions: dict[str, Digest] = {}
        for row in kept:
            owner, _, rest = row.name.partition("/")
            name, _, version = rest.rpartition("@")
            if (owner, name) == (wanted.publisher_id, wanted.name):
                versions[version] = row.manifest
        held = {row.manifest for row in kept}
        held |= {digest for digest, owner, _ in self._store.leases(0.0) if owner == FETCH_LEASE}
        try:
            statements = self._publishers.follower(wanted.publisher_id).releases()
        except P2phubError:
            statements = []  # its metadata can't be used; what is kept under its name still counts
        for statement in statements:
            if statement.name == wanted.name and statement.manifest_digest in held:
                versions[statement.version] = statement.manifest_digest
        if wanted.version is not None:
            order = parse_version(wanted.version)
            versions = {v: d for v, d in versions.items() if parse_version(v) == order}
        if len(versions) > 1:
            shown = ", ".join(sorted(versions, key=parse_version))
            raise UsageError(
                f"several versions of {wanted.name} are kept ({shown}): name one, as in"
                f" {wanted.name}@{next(iter(versions))}",
                versions=sorted(versions),
            )
        return versions

    def _drop(self, rows: Iterable[Release], digests: Iterable[Digest]) -> _Dropped:
        """Drop the rows and the trees under the home."""
        trees, folders, gone = list[Path](), list[Path](), list[Digest]()
        freed_bytes = 0
        for row in rows:
            if row.path is not None and row.path.is_relative_to(self._home.releases):
                # The tree first: a crash in between leaves a release without its tree, which is
                # removed or fetched again, never a tree that nobody knows of.
                tree_bytes = discard_tree(row.path, self._home.releases)
                if tree_bytes is not None:
                    trees.append(row.path)
                    freed_bytes += tree_bytes
            elif row.path is not None:
                folders.append(row.path)
            self._store.remove_release(row.manifest, row.name)
        kept = {row.manifest for row in self._store.releases()}
        for digest in (digest for digest in digests if digest not in kept):
            self._store.lease(digest, FETCH_LEASE, 0)
            gone.append(digest)
        return _Dropped(tuple(trees), tuple(folders), freed_bytes, tuple(gone))


def former_row(store: Store, manifest: Digest, name: str) -> Release | None:
    """What is kept of a manifest under this very name already."""
    return next((r for r in store.releases() if (r.manifest, r.name) == (manifest, name)), None)


def keep(store: Store, release: Release, trees: Path) -> None:
    """Keep a release. What a row of the same name said stays true: that it is published, that it is
    pinned, and which of `trees`, the folder under the home, has to go with it.
    """
    former = former_row(store, release.manifest, release.name)
    if former is not None:
        is_pinned = former.is_pinned or release.is_pinned
        origin = "published" if "published" in (former.origin, release.origin) else release.origin
        release = replace(release, origin=origin, is_pinned=is_pinned)
        has_tree = former.path is not None and former.path.is_relative_to(trees)
        if has_tree and (release.path is None or not release.path.is_relative_to(trees)):
            release = replace(release, path=former.path, method=former.method)
    store.add_release(release)


def _references(rows: Sequence[Release], digests: Sequence[Digest]) -> tuple[str, ...]:
    names = [row.name or content_id_text(row.manifest) for row in rows]
    return tuple(dict.fromkeys(names or [content_id_text(digest) for digest in digests]))
