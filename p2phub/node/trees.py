"""What a digest names, as a tree of files: a release's manifest with its pages, one object, or one
chunk.

Everything here works on documents; no payload is asked for, except that a file of one chunk named
by a bare content id is its own document. Documents are gathered level by level, because each level
names the next.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import trio

from p2phub.digest import Digest, sha256
from p2phub.errors import MalformedDocument, NothingSelected
from p2phub.node.documents import Documents
from p2phub.node.search import Search
from p2phub.proto.content import ObjectRecord, Segment
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import FilePage, FileRecord, Manifest, check_pages, document_kind
from p2phub.store.base import Store


@dataclass(frozen=True, slots=True)
class Tree:
    """The files that one digest names."""

    digest: Digest
    manifest: Manifest | None  # None: an object or a chunk, shown as one file
    pages: tuple[FilePage, ...]  # of the manifest, in order
    files: tuple[FileRecord, ...]  # sorted by path

    @property
    def data_size(self) -> int:
        return sum(file.size for file in self.files)

    def selected(self, include: Sequence[str], exclude: Sequence[str]) -> list[FileRecord]:
        """The files whose path matches some glob of `include` (none: all) and none of `exclude`.

        Raises NothingSelected. A glob's `*` also crosses '/', as in the Hub's own tools.
        """
        chosen = [
            file
            for file in self.files
            if (not include or any(_matches(file.path, glob) for glob in include))
            and not any(_matches(file.path, glob) for glob in exclude)
        ]
        if not chosen:
            raise NothingSelected(f"none of {len(self.files)} files matches", include=list(include))
        return chosen


async def load_tree(
    digest: Digest, documents: Documents, store: Store, search: Search, what: str
) -> Tree:
    """The tree that `digest` names, its documents fetched where they are lacking.

    Raises NoProvider, MalformedDocument, HostilePath.
    """
    root = await documents.get(digest, search, what)
    kind = document_kind(root)
    if kind != "manifest":
        return _tree_of_one(digest, root, kind)
    manifest = Manifest.decode(root)
    names = [page.digest for page in manifest.pages]
    await documents.hold(names, search, f"the file list of {what}")
    return await trio.to_thread.run_sync(held_tree, store, digest)


def held_tree(store: Store, digest: Digest) -> Tree:
    """As `load_tree`, from the store alone; blocks on the disk. Raises NotHeld."""
    root = store.get(digest)
    kind = document_kind(root)
    if kind != "manifest":
        return _tree_of_one(digest, root, kind)
    manifest = Manifest.decode(root)
    pages = tuple(store.file_page(page.digest) for page in manifest.pages)
    return Tree(digest, manifest, pages, tuple(check_pages(manifest, pages)))


@asynccontextmanager
async def keeping(store: Store, digest: Digest) -> AsyncIterator[None]:
    """While the block runs, nothing that `digest` names is collected."""
    kept = store.keeping(digest)
    await trio.to_thread.run_sync(kept.__enter__)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(kept.__exit__, None, None, None)


async def hold_chunk_lists(
    files: Sequence[FileRecord], documents: Documents, store: Store, search: Search, what: str
) -> None:
    """Have the store hold the record and all segments of every file that has them.

    Raises NoProvider, and MalformedDocument where a record contradicts its manifest.
    """
    recorded = [file for file in files if file.has_record]
    await documents.hold([file.object for file in recorded], search, f"the chunk lists of {what}")
    names = await trio.to_thread.run_sync(_segment_names, store, recorded)
    await documents.hold(names, search, f"the chunk lists of {what}")


def record_of(store: Store, file: FileRecord) -> ObjectRecord:
    """The record of a file of several chunks; blocks on the disk.

    Raises NotHeld, and MalformedDocument where the record contradicts what its manifest says of the
    file.
    """
    record = ObjectRecord.decode(store.get(file.object))
    if (record.size, record.sha256, record.chunk_count) != (
        file.size,
        file.sha256,
        file.chunk_count,
    ):
        raise MalformedDocument(
            f"the manifest and the object record disagree on {file.path!r}", path=file.path
        )
    return record


def page_lengths(
    store: Store, tree: Tree, files: Sequence[FileRecord]
) -> Iterator[tuple[Digest, array[int]]]:
    """Every page that lists chunks of `files`, in manifest order: its digest, and per entry the
    bytes to fetch.

    An entry of length 0 is not part of the selection. Blocks on the disk; documents must be held.
    Raises NotHeld.
    """
    # Pages and chunks already in the plan: equal files are fetched once.
    listed: set[Digest] = set()
    chosen = {file.path for file in files}
    for reference, page in zip(
        tree.manifest.pages if tree.manifest else (), tree.pages, strict=True
    ):
        singles = array("I", bytes(4 * len(page.files)))
        for index, file in enumerate(page.files):
            if file.path in chosen and file.chunk_count == 1 and file.object not in listed:
                listed.add(file.object)
                singles[index] = file.size
        if any(singles):
            yield reference.digest, singles
        for file in page.files:
            if file.path in chosen:
                yield from _segment_lengths(store, file, listed)
    if tree.manifest is None:
        for file in files:
            yield from _segment_lengths(store, file, listed)


def _segment_lengths(
    store: Store, file: FileRecord, listed: set[Digest]
) -> Iterator[tuple[Digest, array[int]]]:
    if not file.has_record or file.object in listed:
        return
    listed.add(file.object)
    for reference in record_of(store, file).segments:
        segment = Segment.decode(store.get(reference.digest))
        if len(segment) != reference.chunk_count or segment.data_size != reference.data_size:
            raise MalformedDocument(
                f"a segment of {file.path!r} is not what its record says", path=file.path
            )
        if reference.digest not in listed:
            listed.add(reference.digest)
            yield reference.digest, segment.lengths


def _segment_names(store: Store, files: Sequence[FileRecord]) -> list[Digest]:
    return [segment.digest for file in files for segment in record_of(store, file).segments]


def _tree_of_one(digest: Digest, root: bytes, kind: str | None) -> Tree:
    path = content_id_text(digest)
    if kind == "object":
        record = ObjectRecord.decode(root)
        file = FileRecord(path, record.size, record.sha256, digest, record.chunk_count)
    else:
        file = FileRecord(path, len(root), sha256(root), digest, 1 if root else 0)
    return Tree(digest, None, (), (file,))


def _matches(path: str, glob: str) -> bool:
    return fnmatchcase(path, glob) or (glob.endswith("/") and path.startswith(glob))
