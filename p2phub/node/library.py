"""What this node holds and knows, for people: releases, their files, their signers, whether every
byte is still right.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import trio

from p2phub.core.trust.releases import ReleaseStatement
from p2phub.core.trust.versions import parse_version
from p2phub.digest import Digest
from p2phub.errors import NotHeld, P2phubError
from p2phub.node.api import (
    Fault,
    FileView,
    Kind,
    Progress,
    ProgressSink,
    ReleaseSummary,
    ReleaseView,
    Signer,
    Verified,
    VersionsView,
    VersionView,
)
from p2phub.node.documents import Documents
from p2phub.node.publishers import Publishers
from p2phub.node.resolving import Resolver
from p2phub.node.trees import Tree, held_tree, keeping, load_tree
from p2phub.node.verifying import verify_file
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import FileRecord
from p2phub.proto.names import ContentReference, PetnameReference, Reference, ReleaseReference
from p2phub.store.base import Release, Store
from p2phub.store.cache import Cache
from p2phub.trust.petnames import Petnames

TREE_FILES_MAX = 32_768  # in lists remembered for `ls`: about 16 MB
WHOLE_MAX = 8192  # releases remembered as complete: about 2 MB
RECENT_S = 60.0  # metadata this young is good enough for a look
VERIFY_PROGRESS_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class _Held:
    """What is held of one release, beside what its manifest says of it if that is here."""

    kind: Kind | None = None
    license: str = ""
    file_count: int = 0
    data_size: int = 0
    held_bytes: int = 0
    is_complete: bool = False


class Library:
    """The looking half of a node."""

    def __init__(
        self,
        store: Store,
        documents: Documents,
        resolver: Resolver,
        publishers: Publishers,
        petnames: Petnames,
    ) -> None:
        self._store = store
        self._documents = documents
        self._resolver = resolver
        self._publishers = publishers
        self._petnames = petnames
        self._trees: Cache[Digest, Tree] = Cache(TREE_FILES_MAX)
        self._whole: tuple[int, Cache[Digest, _Held]] = (-1, Cache(WHOLE_MAX))  # since which loss

    async def show(self, reference: Reference, peers: Sequence[str]) -> ReleaseView:
        """As NodeApi.show."""
        async with (
            self._resolver.open(reference, peers, recent_s=RECENT_S) as (resolved, search),
            keeping(self._store, resolved.digest),
        ):
            tree = await load_tree(
                resolved.digest, self._documents, self._store, search, resolved.text
            )
            providers = tuple(str(peer) for peer in search.found)
        views = await trio.to_thread.run_sync(self._file_views, tree)
        manifest = tree.manifest
        return ReleaseView(
            reference=resolved.text,
            manifest=tree.digest,
            content_id=content_id_text(tree.digest),
            kind="dataset" if manifest is not None and manifest.kind == "dataset" else "model",
            license=manifest.license if manifest else "",
            tags=manifest.tags if manifest else (),
            base=manifest.base if manifest else (),
            datasets=manifest.datasets if manifest else (),
            card=manifest.card if manifest else "",
            data_size=tree.data_size,
            files=views,
            signer=resolved.signer
            or await trio.to_thread.run_sync(self._known_signer, tree.digest),
            providers=providers,
        )

    async def versions(
        self, reference: PetnameReference | ReleaseReference, peers: Sequence[str]
    ) -> VersionsView:
        """As NodeApi.versions."""
        release = self._resolver.as_release(reference)
        named = (*peers, *release.peers)
        async with self._resolver.open(
            replace(reference, version=None), named, recent_s=RECENT_S, allow_yanked=True
        ) as (resolved, _):
            signer = resolved.signer
        follower = self._publishers.follower(release.publisher_id)
        statements = [
            s for s in await trio.to_thread.run_sync(follower.releases) if s.name == release.name
        ]
        statements.sort(key=lambda s: parse_version(s.version), reverse=True)
        return VersionsView(
            publisher_id=release.publisher_id,
            petname=signer.petname if signer else None,
            name=release.name,
            freshness=signer.freshness if signer else "unknown",
            versions=tuple(
                VersionView(
                    version=s.version,
                    manifest=s.manifest_digest,
                    status=s.status.value,
                    reason=s.reason,
                )
                for s in statements
            ),
        )

    async def releases(self) -> tuple[ReleaseSummary, ...]:
        """As NodeApi.releases."""
        return await trio.to_thread.run_sync(self._summaries)

    async def verify(self, reference: Reference, progress: ProgressSink) -> Verified:
        """As NodeApi.verify."""
        digest, text, signer = await self.held_digest(reference)
        tree = await trio.to_thread.run_sync(held_tree, self._store, digest)
        kept = await trio.to_thread.run_sync(self._store.releases)
        rows = [row for row in kept if row.manifest == digest]
        done_bytes = missing_bytes = whole_count = 0
        faults: list[Fault] = []
        for file in tree.files:
            progress(Progress("verify", done_bytes, tree.data_size, note=file.path))
            checked_bytes, fault = await trio.to_thread.run_sync(
                verify_file, self._store, file, rows
            )
            done_bytes += checked_bytes
            missing_bytes += file.size - checked_bytes
            whole_count += checked_bytes == file.size
            if fault is not None:
                faults.append(fault)
        progress(Progress("verify", done_bytes, tree.data_size))
        return Verified(
            reference=text,
            content_id=content_id_text(digest),
            file_count=len(tree.files),
            whole_count=whole_count,
            data_size=done_bytes,
            missing_bytes=missing_bytes,
            faults=tuple(faults),
            signer=signer,
        )

    # ---- in worker threads -----------------------------------------------------------------------

    async def held_digest(self, reference: Reference) -> tuple[Digest, str, Signer | None]:
        """What a reference means by what is held here, without asking anybody."""
        if isinstance(reference, ContentReference):
            return reference.digest, str(reference), None
        if isinstance(reference, PetnameReference | ReleaseReference):
            release = self._resolver.as_release(reference)
            follower = self._publishers.follower(release.publisher_id)
            statement = await trio.to_thread.run_sync(
                lambda: follower.resolve(release.name, release.version, time.time(), True)
            )
            view = await trio.to_thread.run_sync(follower.known, time.time())
            signer = self._resolver.signer_of(statement, view.state, 0)
            return (
                statement.manifest_digest,
                f"{str(reference).partition('@')[0]}@{statement.version}",
                signer,
            )
        digest = await trio.to_thread.run_sync(self._store.object_by_sha256, reference.sha256)
        if digest is None:
            raise NotHeld(f"no complete file with {reference} is held here")
        return digest, str(reference), None

    def _file_views(self, tree: Tree) -> tuple[FileView, ...]:
        held = self._held_sizes(tree.files, self._store.held_among(tree.files))
        return tuple(
            FileView(
                path=file.path,
                size=file.size,
                sha256=file.sha256,
                object=file.object,
                held_bytes=held_bytes,
                complete=is_complete,
            )
            for file, (held_bytes, is_complete) in zip(tree.files, held, strict=True)
        )

    def _held_sizes(
        self, files: Sequence[FileRecord], among: tuple[set[Digest], set[Digest]]
    ) -> list[tuple[int, bool]]:
        """Of each file, how much is held and whether it is complete. among: of `held_among`."""
        complete, singles = among
        held: list[tuple[int, bool]] = []
        for file in files:
            if file.object in complete or not file.size:
                held.append((file.size, True))
            elif file.chunk_count == 1:
                held.append((file.size if file.object in singles else 0, False))
            else:
                status = self._store.status(file.object)
                held.append((status.held_bytes if status else 0, False))
        return held

    def _tree(self, digest: Digest) -> Tree | None:
        """What a held manifest lists, remembered; None if its documents are not here."""
        tree = self._trees.get(digest)
        if tree is None:
            try:
                tree = held_tree(self._store, digest)
            except P2phubError:
                return None
            self._trees.put(digest, tree, len(tree.files))
        return tree

    def _known_signer(self, manifest: Digest) -> Signer | None:
        for statement in self._statements():
            if statement.manifest_digest == manifest:
                try:
                    view = self._publishers.follower(statement.publisher_id).known(time.time())
                except P2phubError:
                    return None
                return self._resolver.signer_of(statement, view.state, 0)
        return None

    def _statements(self) -> list[ReleaseStatement]:
        """All that named publishers have signed, as far as it is here."""
        ids = dict.fromkeys(entry.publisher_id for entry in self._petnames.list())
        return [s for id in ids for s in self._publishers.follower(id).releases()]

    def _summaries(self) -> tuple[ReleaseSummary, ...]:
        rows: dict[Digest, Release] = {}
        for release in self._store.releases():  # newest first, but a name before a bare content id
            if release.manifest not in rows or (release.name and not rows[release.manifest].name):
                rows[release.manifest] = release
        shown: list[tuple[Digest, ReleaseStatement | None]] = [
            (statement.manifest_digest, statement) for statement in self._statements()
        ]
        signed = {manifest for manifest, _ in shown}
        shown += [(manifest, None) for manifest in rows if manifest not in signed]
        held = self._held({manifest for manifest, _ in shown})
        return tuple(
            sorted(
                (
                    self._summary(manifest, statement, rows.get(manifest), held[manifest])
                    for manifest, statement in shown
                ),
                key=lambda summary: summary.reference,
            )
        )

    def _held(self, manifests: Collection[Digest]) -> dict[Digest, _Held]:
        """What is held of each release; what was complete is, while nothing was lost."""
        losses_count = self._store.losses_count
        if self._whole[0] != losses_count:
            self._whole = losses_count, Cache(WHOLE_MAX)
        _, whole = self._whole
        found = {name: held for name in manifests if (held := whole.get(name)) is not None}
        trees = {name: self._tree(name) for name in manifests if name not in found}
        files = [file for tree in trees.values() if tree is not None for file in tree.files]
        among = self._store.held_among(files)  # of all releases at once: a few look-ups in all
        for name, tree in trees.items():
            held = found[name] = self._held_of(tree, among)
            if held.is_complete:
                whole.put(name, held)
        return found

    def _held_of(self, tree: Tree | None, among: tuple[set[Digest], set[Digest]]) -> _Held:
        if tree is None:
            return _Held()
        sizes = self._held_sizes(tree.files, among)
        held_bytes, is_complete = sum(size for size, _ in sizes), all(whole for _, whole in sizes)
        if (manifest := tree.manifest) is None:
            return _Held(
                file_count=len(tree.files),
                data_size=tree.data_size,
                held_bytes=held_bytes,
                is_complete=is_complete,
            )
        return _Held(
            kind="dataset" if manifest.kind == "dataset" else "model",
            license=manifest.license,
            file_count=manifest.file_count,
            data_size=manifest.data_size,
            held_bytes=held_bytes,
            is_complete=is_complete,
        )

    def _summary(
        self,
        digest: Digest,
        statement: ReleaseStatement | None,
        kept: Release | None,
        held: _Held,
    ) -> ReleaseSummary:
        names = self._petnames.names_of(statement.publisher_id) if statement else ()
        text = content_id_text(digest)
        if statement and names:
            reference = f"{names[0]}/{statement.name}@{statement.version}"
        else:  # as it was fetched: by its publisher's id, or by content id alone
            reference = (kept and kept.name) or text
        state = "known"
        if kept is not None and kept.origin == "published":
            state = "published" if held.is_complete else "changed"
        elif held.is_complete:
            state = "complete"
        elif held.held_bytes:
            state = "partial"
        return ReleaseSummary(
            reference=reference,
            manifest=digest,
            content_id=text,
            publisher_id=statement.publisher_id if statement else None,
            petname=names[0] if names else None,
            name=statement.name if statement else None,
            version=statement.version if statement else None,
            kind=held.kind,
            license=held.license,
            file_count=held.file_count,
            data_size=held.data_size,
            held_bytes=held.held_bytes,
            state=state,
            path=kept.path if kept else None,
            is_pinned=kept is not None and kept.is_pinned,
        )
