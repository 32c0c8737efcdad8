"""To and from the folders of other tools: the Hugging Face Hub's cache, ollama's models, plain
folders.

What goes out was verified when it came in, or is on its way. What comes in is read whole and
compared with what its names promise before anybody is told of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import trio

from p2phub.digest import Digest
from p2phub.errors import UsageError
from p2phub.node.api import Progress, ProgressSink, ReleaseTerms
from p2phub.node.exchange_api import Exported, ExportRequest, Imported, ImportRequest
from p2phub.node.library import Library
from p2phub.node.publishing import Publishing
from p2phub.node.trees import Tree, held_tree, keeping, record_of
from p2phub.paths import HubCache, OllamaModels
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import FileRecord
from p2phub.proto.messages import Run
from p2phub.proto.names import PetnameReference, Reference, ReleaseReference
from p2phub.store.base import Links, Placement, SourceFile, Store
from p2phub.store.folder import FolderListing
from p2phub.store.hub_cache import Snapshot, commit_of_revision, list_snapshot, write_snapshot
from p2phub.store.named_files import NamedFile, check_names, listing_of
from p2phub.store.ollama import list_model, write_model

GGUF_MAGIC = b"GGUF"


class Exchange:
    """See `p2phub.node.exchange_api.ExchangeApi`."""

    def __init__(self, store: Store, library: Library, publishing: Publishing) -> None:
        self._store = store
        self._library = library
        self._publishing = publishing

    async def export(self, request: ExportRequest, progress: ProgressSink) -> Exported:
        """As ExchangeApi.export."""
        digest, text, _ = await self._library.held_digest(request.reference)
        name = request.name or _name_of(request.reference, digest)
        async with keeping(self._store, digest):
            tree = await trio.to_thread.run_sync(held_tree, self._store, digest)
            progress(Progress("complete", 0, tree.data_size, note=f"laying out {text}"))
            # Not cancelled half-way: what is begun for another tool is brought to its end.
            placement, size = await trio.to_thread.run_sync(self._lay_out, request, tree, name)
        progress(Progress("complete", tree.data_size, tree.data_size))
        return Exported(
            path=placement.path,
            name=name,
            content_id=content_id_text(digest),
            file_count=sum(placement.methods.values()),
            data_size=size,
            extra_bytes=placement.extra_bytes,
            method=placement.summary(),
        )

    async def take_in(
        self, request: ImportRequest, terms: ReleaseTerms, progress: ProgressSink
    ) -> Imported:
        """As ExchangeApi.take_in."""
        named: list[NamedFile] = []

        def list_files() -> FolderListing:
            if request.tool == "folder":
                return self._publishing.listed(request.folder)
            folder, found = _named_files(request)
            named[:] = found
            return listing_of(folder, found)

        def check(sources: Sequence[SourceFile]) -> None:
            check_names(named, sources)

        prepared = await self._publishing.take(list_files, check, terms, progress)
        compared = sum(1 for file in named if file.is_named)
        announced = await self._publishing.keep(prepared.manifest) if request.keep else 0
        return Imported(
            prepared=prepared,
            content_id=content_id_text(prepared.manifest),
            compared_count=compared,
            uncompared_count=prepared.file_count - compared,
            announced=announced,
        )

    # ---- in worker threads -----------------------------------------------------------------------

    def _lay_out(self, request: ExportRequest, tree: Tree, name: str) -> tuple[Placement, int]:
        """The placement, and the bytes of all files in it."""
        links = Links.ALL if request.hardlink else Links.NONE
        if request.tool == "hf":
            kind = tree.manifest.kind if tree.manifest is not None else "model"
            commit = tree.digest[:20].hex()  # as the gateway names it
            version = _version(request.reference)
            revisions = (version, "main") if version else ("main",)
            cache = HubCache(request.folder, kind, name)
            snapshot = Snapshot(cache, commit, revisions, tree.files)
            placed = write_snapshot(self._store, snapshot, links=links)
            return placed, tree.data_size
        if request.tool == "ollama":
            model = self._only_gguf(tree)
            models = OllamaModels(request.folder)
            placed = write_model(self._store, models, name, model, links=links)
            return placed, model.size
        placed = self._store.place_files(tree.files, request.folder, links=links)
        return placed, tree.data_size

    def _only_gguf(self, tree: Tree) -> FileRecord:
        found = [file for file in tree.files if file.path.lower().endswith(".gguf")]
        if len(tree.files) == 1:
            found = list(tree.files)
        if len(found) != 1:
            shown = ", ".join(file.path for file in found[:5])
            raise UsageError(
                f"ollama takes one GGUF file, and this release has {len(found)}: {shown or 'none'}."
                " Export one by its own content id: `p2phub show` lists them",
                paths=[file.path for file in found[:32]],
            )
        if self._first_bytes(found[0]) != GGUF_MAGIC:
            raise UsageError(f"{found[0].path} is no GGUF file, and ollama takes no other")
        return found[0]

    def _first_bytes(self, file: FileRecord) -> bytes:
        if not file.has_record:
            return self._store.get(file.object)[: len(GGUF_MAGIC)]
        page = record_of(self._store, file).segments[0].digest
        reader = self._store.span_reader((Run(page, 0, 1),))
        chunk = memoryview(bytearray(reader.lengths[0]))
        reader.read(0, 1, chunk)
        return bytes(chunk[: len(GGUF_MAGIC)])


def _named_files(request: ImportRequest) -> tuple[Path, list[NamedFile]]:
    if request.tool == "ollama":
        models = OllamaModels(request.folder)
        return models.manifest(request.name), list_model(models, request.name)
    cache = HubCache(request.folder, request.kind, request.name)
    commit = commit_of_revision(cache, request.revision)
    return cache.snapshot(commit), list_snapshot(cache, commit)


def _name_of(reference: Reference, digest: Digest) -> str:
    """What a tool calls it, as the gateway does: owner/name, or the content id."""
    if isinstance(reference, PetnameReference):
        return f"{reference.petname}/{reference.name}"
    if isinstance(reference, ReleaseReference):
        return f"{reference.publisher_id}/{reference.name}"
    return content_id_text(digest)


def _version(reference: Reference) -> str:
    if isinstance(reference, PetnameReference | ReleaseReference):
        return reference.version or ""
    return ""
