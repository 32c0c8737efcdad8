"""A node without disk or network: all of `NodeApi` over dictionaries, to test what stands before
it.

Nodes that share a `World` find each other's releases there. Content is named and described by real
manifests; signatures are not checked. Folders are read and written as a real node does.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from p2phub.core.trust.versions import normal_version, parse_version
from p2phub.digest import Digest, sha256
from p2phub.errors import (
    DestinationExists,
    DigestMismatch,
    NoSuchFile,
    NotHeld,
    NothingToPublish,
    PeerUnreachable,
    ReleaseNotFound,
    UsageError,
    VersionExists,
)
from p2phub.node.api import (
    Fault,
    Fetched,
    FetchRequest,
    NodeApi,
    PeerShare,
    Prepared,
    Progress,
    ProgressSink,
    Published,
    ReadBytes,
    ReleaseSummary,
    ReleaseTerms,
    ReleaseView,
    Verified,
    VersionsView,
    VersionView,
)
from p2phub.node.figures import IdentityView, Metric, Notice, PeerView, StatusView, Transfer
from p2phub.proto.content_id import content_id_text, parse_content_id
from p2phub.proto.names import (
    PetnameReference,
    PublisherReference,
    Reference,
    ReleaseReference,
)
from tests.memory_acquaintances import MemoryBootstrap, MemoryTrust
from tests.memory_resolving import MemoryResolver
from tests.memory_shelf import MemoryShelf, kind_of
from tests.memory_world import World


class MemoryNode(NodeApi):
    """One node of a `World`."""

    def __init__(self, world: World, peer_id: str = "12D3KooWMemory") -> None:
        self.world = world
        self.peer_id = peer_id
        self.address = f"/ip4/127.0.0.1/tcp/4701/p2p/{peer_id}"
        self.shelf = MemoryShelf(world)
        self.notices: list[Notice] = []
        self._connected: dict[str, PeerView] = {}
        self._bootstrap = MemoryBootstrap()
        self._trust = MemoryTrust(world)
        self._resolver = MemoryResolver(world, self._trust, self.shelf.manifests)
        self.readers = 0  # open `read`s
        self.fetching = 0  # running `fetch`es
        world.nodes[peer_id] = self

    # ---- publishing -----------------------------------------------------------------------------

    async def publish_prepare(
        self, folder: Path, terms: ReleaseTerms, progress: ProgressSink
    ) -> Prepared:
        await trio.lowlevel.checkpoint()
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        if not paths:
            raise NothingToPublish(f"{folder} holds no files", folder=str(folder))
        release = self.world.add(
            {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, terms
        )
        root = release.manifest.encode()
        names = {name for chunks in release.chunks.values() for name in chunks}
        reused = sum(len(self.world.chunks[name]) for name in names & self.shelf.chunks)
        self.shelf.chunks |= names
        self.shelf.manifests[release.manifest.digest] = "published"
        self.shelf.paths[release.manifest.digest] = folder
        size = release.manifest.data_size
        progress(Progress("scan", size, size))
        return Prepared(
            manifest=release.manifest.digest,
            manifest_length=len(root),
            manifest_sha256=sha256(root),
            kind=terms.kind,
            file_count=len(paths),
            data_size=size,
            reused_bytes=reused,
            extra_bytes=0,
            method="adopt",
            addresses=(self.address,),
        )

    async def publish_commit(
        self, publisher_id: str, name: str, version: str, files: Mapping[str, bytes], petname: str
    ) -> Published:
        await trio.lowlevel.checkpoint()
        manifest = _manifest_named(name, version, files)
        same = (v for v in self.world.signed.get(publisher_id, {}).get(name, {}))
        wanted = parse_version(version)
        version = next((v for v in same if parse_version(v) == wanted), normal_version(version))
        if manifest not in self.shelf.manifests:
            raise NotHeld("the manifest was not prepared here")
        known = self.world.signed.setdefault(publisher_id, {}).setdefault(name, {})
        if version in known and known[version].manifest != manifest:
            raise VersionExists(f"{name}@{version} exists with other content")
        known[version] = VersionView(version=version, manifest=manifest, status="active")
        held = [other for other, owner in self.trust.followed.items() if owner == publisher_id]
        if not held:
            await self.trust.add(PublisherReference(publisher_id), petname)
        self.trust.own.add(publisher_id)
        return Published(
            reference=str(ReleaseReference(publisher_id, name, version, (self.address,))),
            petname=held[0] if held else petname,
            content_id=content_id_text(manifest),
            publisher_id=publisher_id,
            name=name,
            version=version,
            announced=1,
        )

    # ---- releases -------------------------------------------------------------------------------

    async def fetch(self, request: FetchRequest, progress: ProgressSink) -> Fetched:
        started = trio.current_time()
        release, signer, path = await self._resolver.resolve(
            request.reference, request.allow_yanked
        )
        manifest = release.manifest.digest
        wanted = [
            name
            for name in release.files
            if (path is None or name == path)
            and (not request.include or any(fnmatch.fnmatch(name, g) for g in request.include))
            and not any(fnmatch.fnmatch(name, g) for g in request.exclude)
        ]
        if not wanted:
            raise NoSuchFile("no file of this release was asked for")
        target = request.destination
        if target is not None:
            for name in wanted:
                existing = target / name
                if (
                    existing.exists()
                    and sha256(existing.read_bytes()) != release.files[name].sha256
                ):
                    raise DestinationExists(f"{existing} is another file", path=str(existing))
        total = sum(release.files[name].size for name in wanted)
        done = reused = 0
        self.fetching += 1
        try:
            for name in wanted:
                for chunk in release.chunks[name]:
                    size = len(self.world.chunks[chunk])
                    reused += size if chunk in self.shelf.chunks else 0
                    await self.shelf.obtain(chunk)
                    done += size
                    progress(Progress("transfer", done, total, 1e6, 1))
        finally:
            self.fetching -= 1
        if manifest in self.world.lies:
            raise DigestMismatch(
                f"{wanted[0]} does not have the SHA-256 that its signer states",
                signer=signer.publisher_id if signer else None,
                path=wanted[0],
            )
        self.shelf.manifests.setdefault(manifest, "complete")
        if target is not None:
            for name in wanted:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(self.shelf.content(release, name))
            self.shelf.paths[manifest] = target
        place = self.shelf.paths.get(manifest, Path("/memory") / content_id_text(manifest))
        return Fetched(
            path=place / path if path is not None else place,
            method="copy" if target is not None else "present",
            reference=str(request.reference),
            content_id=content_id_text(manifest),
            file_count=len(wanted),
            data_size=total,
            bytes_fetched=total - reused,
            bytes_reused=reused,
            seconds=trio.current_time() - started,
            usable_seconds=trio.current_time() - started,
            peers=(PeerShare(peer_id="12D3KooWOther", address="", bytes=total - reused),),
            signer=signer,
        )

    async def show(self, reference: Reference, peers: tuple[str, ...] = ()) -> ReleaseView:
        release, signer, path = await self._resolver.resolve(reference, allow_yanked=True)
        manifest = release.manifest
        names = [path] if path is not None else sorted(release.files, key=lambda n: n.encode())
        providers = [
            node.peer_id
            for node in self.world.nodes.values()
            if node is not self and manifest.digest in node.shelf.manifests
        ]
        return ReleaseView(
            reference=str(reference),
            manifest=manifest.digest,
            content_id=content_id_text(manifest.digest),
            kind=kind_of(manifest),
            license=manifest.license,
            tags=manifest.tags,
            base=manifest.base,
            datasets=manifest.datasets,
            card=manifest.card,
            data_size=manifest.data_size,
            files=tuple(self.shelf.file_view(release, name) for name in names),
            signer=signer,
            providers=tuple(providers),
        )

    async def versions(
        self, reference: PetnameReference | ReleaseReference, peers: tuple[str, ...] = ()
    ) -> VersionsView:
        return await self._resolver.versions(reference)

    def read(
        self,
        reference: Reference,
        path: str | None,
        start: int = 0,
        stop: int | None = None,
        peers: tuple[str, ...] = (),
    ) -> ReadBytes:
        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
            release, _, single = await self._resolver.resolve(reference, allow_yanked=True)
            name = path if path is not None else single
            if name is None or name not in release.files:
                raise NoSuchFile(f"the release holds no file {path}", path=path)
            size = release.files[name].size
            self.readers += 1
            try:
                yield self._pieces(release.chunks[name], start, size if stop is None else stop)
            finally:
                self.readers -= 1

        return opened()

    async def _pieces(self, chunks: list[Digest], start: int, stop: int) -> AsyncIterator[bytes]:
        at = 0
        for chunk in chunks:
            data = self.world.chunks[chunk]
            low, high = max(start - at, 0), min(stop - at, len(data))
            at += len(data)
            if low < high:
                await self.shelf.obtain(chunk)
                yield data[low:high]

    async def releases(self) -> tuple[ReleaseSummary, ...]:
        await trio.lowlevel.checkpoint()
        rows, named = [], set()
        for petname, publisher_id in self.trust.followed.items():
            for name, known in self.world.signed.get(publisher_id, {}).items():
                for version in known.values():
                    named.add(version.manifest)
                    rows.append(
                        self.shelf.summary(version.manifest, publisher_id, petname, name, version)
                    )
        for manifest in self.shelf.manifests:
            if manifest not in named:
                rows.append(self.shelf.summary(manifest, None, None, None, None))
        return tuple(sorted(rows, key=lambda row: row.reference))

    async def verify(self, reference: Reference, progress: ProgressSink) -> Verified:
        release, signer, _ = await self._resolver.resolve(reference, allow_yanked=True)
        manifest = release.manifest.digest
        views = [self.shelf.file_view(release, name) for name in release.files]
        held = sum(view.held_bytes for view in views)
        if held == 0 and manifest not in self.shelf.manifests:
            raise NotHeld(f"nothing of {reference} is held here")
        progress(Progress("verify", held, held))
        faults = [
            Fault(path=view.path, reason="its SHA-256 is false", kind="DigestMismatch")
            for view in views
            if sha256(self.shelf.content(release, view.path)) != view.sha256
            or manifest in self.world.lies
        ]
        return Verified(
            reference=str(reference),
            content_id=content_id_text(manifest),
            file_count=len(views),
            whole_count=sum(view.complete for view in views),
            data_size=held,
            missing_bytes=release.manifest.data_size - held,
            faults=tuple(faults),
            signer=signer,
        )

    # ---- the node itself ------------------------------------------------------------------------

    @property
    def bootstrap(self) -> MemoryBootstrap:
        return self._bootstrap

    @property
    def trust(self) -> MemoryTrust:
        return self._trust

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

    async def identity(self) -> IdentityView:
        await trio.lowlevel.checkpoint()
        return IdentityView(peer_id=self.peer_id, addresses=(self.address,), agent="p2phub/memory")

    async def status(self) -> StatusView:
        await trio.lowlevel.checkpoint()
        transfers = [
            Transfer(reference="", content_id="", progress=Progress("transfer", 0, None))
        ] * self.fetching
        return StatusView(
            peer_id=self.peer_id,
            addresses=(self.address,),
            uptime_s=0.0,
            peers=len(self._connected),
            routing_table=0,
            releases=len(self.shelf.manifests),
            stored_bytes=sum(len(self.world.chunks[chunk]) for chunk in self.shelf.chunks),
            received_bytes=0,
            sent_bytes=0,
            announcements_queued=0,
            announcements_held=len(self.shelf.manifests),
            transfers=tuple(transfers),
            notices=tuple(self.notices),
        )

    def metrics(self) -> tuple[Metric, ...]:
        return (
            Metric(
                name="chunks_held",
                help="Chunks held and verified.",
                type="gauge",
                value=len(self.shelf.chunks),
                labels={},
            ),
        )


def _manifest_named(name: str, version: str, files: Mapping[str, bytes]) -> Digest:
    """The content id that signed metadata binds to a release. Raises ReleaseNotFound."""
    wanted = parse_version(version)
    for data in files.values():
        targets = json.loads(data).get("signed", {}).get("targets", {})
        for path, target in targets.items():
            named, _, rest = path.partition("/")
            if named == name and parse_version(rest.removesuffix("/manifest")) == wanted:
                return parse_content_id(target["custom"]["release"])
    raise ReleaseNotFound(f"the metadata names no {name}@{version}", name=name, version=version)
