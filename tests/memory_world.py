"""What exists for the nodes of tests/memory_node.py: chunks, releases, what publishers signed."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from p2phub.digest import EMPTY, Digest, digest, sha256
from p2phub.node.api import ReleaseTerms, VersionView
from p2phub.proto.content import TENSOR_RULE, ObjectRecord, Segment, SegmentRef
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import FileRecord, Manifest, cut_pages, page_ref

if TYPE_CHECKING:
    from tests.memory_node import MemoryNode

CHUNK_BYTES: Final = 64 * 1024  # fixed cuts: how a node would cut does not matter here


@dataclass(slots=True)
class Release:
    """The content of one manifest."""

    manifest: Manifest
    files: dict[str, FileRecord]
    chunks: dict[str, list[Digest]]  # by path


@dataclass(slots=True)
class World:
    """What exists: all chunks, all manifests, all that publishers signed."""

    chunks: dict[Digest, bytes] = field(default_factory=dict)
    releases: dict[Digest, Release] = field(default_factory=dict)
    signed: dict[str, dict[str, dict[str, VersionView]]] = field(default_factory=dict)
    nodes: dict[str, MemoryNode] = field(default_factory=dict)
    reachable: bool = True  # False: no node finds another
    lost: set[Digest] = field(default_factory=set)  # chunks that nobody sends any more
    lies: set[Digest] = field(default_factory=set)  # manifests whose SHA-256 are false
    gate: trio.Event | None = None  # chunks from other nodes wait for it

    def add(self, files: Mapping[str, bytes], terms: ReleaseTerms) -> Release:
        """Make a release of `files`, by path; its chunks exist from now on."""
        records, chunks = {}, {}
        for path, data in files.items():
            pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
            names = [digest(piece) for piece in pieces]
            self.chunks.update(zip(names, pieces, strict=True))
            chunks[path] = names
            name = _object(names, pieces, data)
            records[path] = FileRecord(path, len(data), sha256(data), name, len(names))
        card = terms.card or ("README.md" if "README.md" in records else "")
        pages = tuple(page_ref(page) for page in cut_pages(records.values()))
        manifest = Manifest(
            terms.kind, terms.license, terms.tags, terms.base, terms.datasets, card, pages
        )
        release = Release(manifest, records, chunks)
        self.releases[manifest.digest] = release
        return release


def signed_files(name: str, version: str, manifest: Digest) -> dict[str, bytes]:
    """As much of a publisher's metadata as a MemoryNode reads: which manifest a version has."""
    custom = {"release": content_id_text(manifest)}
    signed = {"targets": {f"{name}/{version}/manifest": {"custom": custom}}}
    return {f"1.{name}.json": json.dumps({"signed": signed}).encode()}


def _object(names: list[Digest], pieces: list[bytes], data: bytes) -> Digest:
    if not names:
        return EMPTY
    if len(names) == 1:
        return names[0]
    segment = Segment(b"".join(names), array("I", map(len, pieces)))
    encoded = segment.encode()
    reference = SegmentRef(digest(encoded), len(encoded), len(names), len(data))
    return ObjectRecord(TENSOR_RULE, len(data), sha256(data), (reference,)).digest
