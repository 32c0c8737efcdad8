"""What a MemoryNode holds, how it came there, and what a node says of it."""

from __future__ import annotations

from pathlib import Path

import trio

from p2phub.digest import Digest
from p2phub.errors import NoProvider
from p2phub.node.api import FileView, Kind, ReleaseSummary, VersionView
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import Manifest
from tests.memory_world import Release, World


class MemoryShelf:
    """The shelf of one node."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.chunks: set[Digest] = set()
        self.manifests: dict[Digest, str] = {}  # how they came
        self.paths: dict[Digest, Path] = {}

    async def obtain(self, chunk: Digest) -> None:
        """Hold one chunk, from another node if need be. Raises NoProvider."""
        await trio.lowlevel.checkpoint()
        if chunk in self.chunks:
            return
        if self._world.gate is not None:
            await self._world.gate.wait()
        is_held = any(chunk in node.shelf.chunks for node in self._world.nodes.values())
        if not self._world.reachable or not is_held or chunk in self._world.lost:
            raise NoProvider(
                "none of 2 peers asked in 0.1 s holds this", asked=["12D3KooWOther"], seconds=0.1
            )
        self.chunks.add(chunk)

    def file_view(self, release: Release, name: str) -> FileView:
        record, chunks = release.files[name], release.chunks[name]
        held = sum(len(self._world.chunks[chunk]) for chunk in chunks if chunk in self.chunks)
        complete = held == record.size and release.manifest.digest in self.manifests
        return FileView(
            path=name,
            size=record.size,
            sha256=record.sha256,
            object=record.object,
            held_bytes=held,
            complete=complete,
        )

    def content(self, release: Release, name: str) -> bytes:
        return b"".join(self._world.chunks[chunk] for chunk in release.chunks[name])

    def summary(
        self,
        manifest: Digest,
        publisher_id: str | None,
        petname: str | None,
        name: str | None,
        version: VersionView | None,
    ) -> ReleaseSummary:
        """A row of `ls`; without a version the release has no name here."""
        release = self._world.releases[manifest]
        content_id = content_id_text(manifest)
        text = f"{petname}/{name}@{version.version}" if version else content_id
        held = sum(self.file_view(release, name).held_bytes for name in release.files)
        return ReleaseSummary(
            reference=text,
            manifest=manifest,
            content_id=content_id,
            publisher_id=publisher_id,
            petname=petname,
            name=name,
            version=version.version if version else None,
            kind=kind_of(release.manifest),
            license=release.manifest.license,
            file_count=len(release.files),
            data_size=release.manifest.data_size,
            held_bytes=held,
            state=self.manifests.get(manifest, "partial" if held else "known"),
            path=self.paths.get(manifest),
            is_pinned=False,
        )


def kind_of(manifest: Manifest) -> Kind:
    return "dataset" if manifest.kind == "dataset" else "model"
