"""Fetching: from a reference to files on the disk, whole and checked.

The order: what it means → its documents → what is here already → the rest from peers → SHA-256 of
every file → the tree that a person reads. A crash or a cancel at any point loses at most the last
checkpoint; the next fetch of the same thing goes on from there. So does this one, by itself, where
a disk was full or away for a while (pausing.py).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import trio

from p2phub.digest import Digest
from p2phub.display import size_text
from p2phub.durable import room_at
from p2phub.errors import (
    CorruptChunk,
    DestinationExists,
    DigestMismatch,
    NotHeld,
    P2phubError,
    StoreError,
    StoreFull,
)
from p2phub.net.base import Network
from p2phub.node.ahead import discard, hash_ahead, lay_ahead
from p2phub.node.announcing import Announcing
from p2phub.node.api import Fetched, FetchRequest, PeerShare, Progress, ProgressSink
from p2phub.node.channels import Channels
from p2phub.node.documents import Documents
from p2phub.node.downloads import STALL_TIMEOUT_S, Transfer, download_of
from p2phub.node.pausing import PausableFetch, Pauses
from p2phub.node.resolving import Resolved, Resolver
from p2phub.node.search import Search
from p2phub.node.tasks import open_tasks
from p2phub.node.trees import Tree, hold_chunk_lists, load_tree, page_lengths, record_of
from p2phub.node.upkeep import FETCH_LEASE, Upkeep, former_row, keep
from p2phub.node.watching import Watches
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import FileRecord
from p2phub.proto.names import FileReference
from p2phub.store.base import (
    Layout,
    Method,
    ObjectState,
    ObjectStatus,
    Place,
    Placement,
    Release,
    Store,
)

LEASE_S = 7 * 24 * 3600.0  # how long an interrupted fetch is protected
ROOM_SLACK_BYTES = 64 << 20  # never fill the last of a disk: the index and logs need room
PROGRESS_PERIOD_S = 0.1
CLAIMS_MAX = 4  # records with one SHA-256 that are fetched before it is given up
REPAIRS_MAX = 2  # times that chunks the disk lost are asked for again before the fetch fails

OnTransfer = Callable[[Transfer, Resolved, int], AbstractContextManager[None]]


@dataclass(slots=True)
class _Plan:
    """What one fetch works on."""

    resolved: Resolved
    tree: Tree
    files: list[FileRecord]
    objects: list[FileRecord]  # of several chunks, one per object
    folder: Path | None  # where the user wants the files; None: below the home
    layout: Layout  # where they will lie


class Fetching:
    """The fetching half of a node."""

    def __init__(
        self,
        *,
        upkeep: Upkeep,
        network: Network,
        home: Home,
        store: Store,
        documents: Documents,
        resolver: Resolver,
        channels: Channels,
        announcing: Announcing,
        rng: random.Random,
        watches: Watches,
        on_transfer: OnTransfer,
    ) -> None:
        self._upkeep = upkeep
        self._network = network
        self._home = home
        self._store = store
        self._documents = documents
        self._resolver = resolver
        self._channels = channels
        self._announcing = announcing
        self._rng = rng
        self._watches = watches
        self._on_transfer = on_transfer
        self.pauses = Pauses(home, upkeep)
        self._busy: dict[Digest, trio.Lock] = {}  # two fetches of one thing take turns

    async def fetch(self, request: FetchRequest, progress: ProgressSink) -> Fetched:
        """As NodeApi.fetch."""
        fetch = PausableFetch(request, progress, self.pauses)
        started_s = trio.current_time()
        documents_before = self._documents.received_bytes
        while True:
            try:
                fetched = await self._fetch_claimed(fetch, started_s, documents_before)
            except StoreError as error:
                await fetch.wait(error)
            else:
                return fetch.completed(fetched)

    async def _fetch_claimed(
        self, fetch: PausableFetch, started_s: float, documents_before: int
    ) -> Fetched:
        """Who claims a SHA-256 falsely does not keep others from being asked."""
        for _ in range(CLAIMS_MAX):
            try:
                return await self._fetch(fetch, started_s, documents_before)
            except DigestMismatch as error:
                if not isinstance(fetch.request.reference, FileReference):
                    raise
                self._documents.refuse_claim(bytes.fromhex(str(error.facts["object"])))
        raise DigestMismatch(f"{CLAIMS_MAX} peers claimed {fetch.request.reference} falsely")

    async def _fetch(
        self, fetch: PausableFetch, started_s: float, documents_before: int
    ) -> Fetched:
        request, progress, shares = fetch.request, fetch.report, fetch.shares
        progress(Progress("resolve", 0, None, note=f"looking for {request.reference}"))
        async with self._resolver.open(
            request.reference,
            request.peers,
            recent_s=request.room_wait_s if fetch.resolved is not None else 0.0,
            allow_yanked=request.allow_yanked,
        ) as (resolved, search):
            fetch.on_resolved(resolved)
            lock = self._busy.setdefault(resolved.digest, trio.Lock())
            async with lock:
                await self._lease(resolved.digest, time.time() + LEASE_S)
                progress(Progress("documents", 0, None))
                tree = await load_tree(
                    resolved.digest, self._documents, self._store, search, resolved.text
                )
                files = tree.selected(request.include, request.exclude)
                folder = _folder(request.destination)
                layout = await self._layout(resolved, tree, files, folder)
                plan = _Plan(resolved, tree, files, _objects(files), folder, layout)
                reused_bytes = await self._prepare(plan, search, fetch.let_go)
                fetch.on_transfer()
                try:
                    await self._transfer(plan, search, shares, progress)
                    fetch.on_transferred()
                    usable_seconds = trio.current_time() - started_s
                    await trio.to_thread.run_sync(self._store.checkpoint)
                    placement = await self._complete(plan, search, shares, progress)
                finally:
                    await discard(layout)
                await self._keep(plan, placement)
                await self._lease(resolved.digest, 0)
        data_size = sum(file.size for file in files)
        progress(Progress("complete", data_size, data_size))
        payload_bytes = sum(share.bytes for share in shares)
        return Fetched(
            path=placement.path if tree.manifest is not None else placement.path / files[0].path,
            method=_method(placement, data_size),
            reference=resolved.text,
            content_id=content_id_text(resolved.digest),
            file_count=len(files),
            data_size=data_size,
            bytes_fetched=payload_bytes + self._documents.received_bytes - documents_before,
            bytes_reused=reused_bytes,
            seconds=trio.current_time() - started_s,
            usable_seconds=usable_seconds,
            peers=tuple(shares),
            signer=resolved.signer,
            warnings=resolved.warnings,
        )

    async def transfer(
        self,
        tree: Tree,
        files: Sequence[FileRecord],
        resolved: Resolved,
        search: Search,
        *,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        rounds_alone_max: int | None = None,
    ) -> Transfer:
        """A transfer of what is missing of `files`, ready to run. The rest: see `Transfer`.

        Documents must be held and parts open.
        """
        pages = await trio.to_thread.run_sync(self._pages, tree, files)
        return Transfer(
            swarm=tree.digest,
            machine=download_of(pages, random.Random(self._rng.getrandbits(64))),
            search=search,
            network=self._network,
            store=self._store,
            channels=self._channels,
            watches=self._watches,
            stall_timeout_s=stall_timeout_s,
            rounds_alone_max=rounds_alone_max,
        )

    # ---- steps -----------------------------------------------------------------------------------

    async def _prepare(self, plan: _Plan, search: Search, let_go: list[str]) -> int:
        """Chunk lists, a place for every file, and what is here already; bytes that were found
        here. let_go: releases that had to make room are added.
        """
        if plan.folder is not None:
            conflicts = await trio.to_thread.run_sync(
                self._store.conflicts, plan.files, plan.folder
            )
            if conflicts:
                shown = ", ".join(conflicts[:3]) + (", …" if len(conflicts) > 3 else "")
                raise DestinationExists(
                    f"{plan.folder} holds other files under the same names: {shown}",
                    paths=conflicts[:32],
                )
        await hold_chunk_lists(plan.files, self._documents, self._store, search, plan.resolved.text)
        if plan.folder is None:
            wanted_bytes = await trio.to_thread.run_sync(self._wanted_bytes, plan)
            let_go += await self._upkeep.make_room(plan.tree.digest, wanted_bytes)
        await trio.to_thread.run_sync(self._check_room, plan)
        return await trio.to_thread.run_sync(self._open_parts, plan)

    def _wanted_bytes(self, plan: _Plan) -> int:
        """What the store will take beside what it has; a part that is open has its room."""
        known = (file for file in plan.objects if self._store.status(file.object) is not None)
        held = {file.object for file in known}
        singles = [file for file in plan.files if file.chunk_count == 1]
        held |= set.union(*self._store.held_among(singles))
        sizes = {file.object: file.size for file in (*plan.objects, *singles)}
        return sum(size for name, size in sizes.items() if name not in held)

    def _check_room(self, plan: _Plan) -> None:
        wanted_bytes = 0
        for file in plan.objects:
            status = self._store.status(file.object)
            if status is None or status.state is not ObjectState.COMPLETE:
                wanted_bytes += file.size - (_room_taken(status) if status is not None else 0)
        disk = room_at(plan.folder or self._home.store)
        if wanted_bytes > 0 and wanted_bytes + ROOM_SLACK_BYTES > disk.free:
            raise StoreFull(
                f"{size_text(wanted_bytes)} of room are needed and {size_text(disk.free)} are free "
                f"on {disk.folder}, of which {size_text(ROOM_SLACK_BYTES)} are left alone",
                path=str(disk.folder),
                needed=wanted_bytes + ROOM_SLACK_BYTES,
                free=disk.free,
                limit=disk.total,
            )

    def _open_parts(self, plan: _Plan) -> int:
        reused_bytes = 0
        for file in plan.objects:
            record_of(self._store, file)
            status = self._store.status(file.object)
            if status is not None and status.state is ObjectState.COMPLETE:
                reused_bytes += file.size
                continue
            self._store.open_part(file.object, folder=plan.folder)
            reused_bytes += self._store.reuse(file.object)
        return reused_bytes

    def _pages(
        self, tree: Tree, files: Sequence[FileRecord]
    ) -> list[tuple[Digest, Sequence[int], bytes]]:
        """Pages with something missing: digest, bytes per entry, have-bits."""
        found: list[tuple[Digest, Sequence[int], bytes]] = []
        for page, lengths in page_lengths(self._store, tree, files):
            missing = self._store.missing(page)
            if not any(lengths[index] for index in missing):
                continue
            bits = bytearray(b"\xff" * ((len(lengths) + 7) // 8))
            for index in missing:
                bits[index >> 3] &= ~(0x80 >> (index & 7))
            found.append((page, lengths, bytes(bits)))
        return found

    async def _transfer(
        self, plan: _Plan, search: Search, shares: list[PeerShare], progress: ProgressSink
    ) -> None:
        """Get what is missing. shares: what each peer did is added, also where it fails."""
        transfer = await self.transfer(plan.tree, plan.files, plan.resolved, search)
        if transfer.machine.is_complete:
            return
        total_bytes = sum(file.size for file in plan.files)
        held_before = total_bytes - transfer.statistics().total_bytes

        def report() -> None:
            facts = transfer.statistics()
            done_bytes = held_before + facts.verified_bytes
            active = sum(1 for peer in facts.peers if peer.rate_bytes_per_s > 0)
            progress(Progress("transfer", done_bytes, total_bytes, facts.rate_bytes_per_s, active))

        async def report_regularly() -> None:
            while True:
                report()
                await trio.sleep(PROGRESS_PERIOD_S)

        try:
            with self._on_transfer(transfer, plan.resolved, total_bytes):
                async with open_tasks() as nursery:
                    nursery.start_soon(report_regularly)
                    nursery.start_soon(hash_ahead, self._store, plan.objects, transfer)
                    nursery.start_soon(lay_ahead, plan.layout, transfer)
                    await transfer.run()
                    nursery.cancel_scope.cancel()
        finally:
            report()
            shares += _shares(transfer)

    async def _complete(
        self, plan: _Plan, search: Search, shares: list[PeerShare], progress: ProgressSink
    ) -> Placement:
        """Every file whole, its SHA-256 recomputed, and in its place."""
        for file in plan.objects:
            for attempt in range(REPAIRS_MAX + 1):
                try:
                    await self._finish(plan, file)
                    break
                except (CorruptChunk, NotHeld):
                    if attempt == REPAIRS_MAX:
                        raise
                    await self._transfer(plan, search, shares, progress)
                    await trio.to_thread.run_sync(self._store.checkpoint)
        return await trio.to_thread.run_sync(plan.layout.place)

    async def _layout(
        self, resolved: Resolved, tree: Tree, files: Sequence[FileRecord], folder: Path | None
    ) -> Layout:
        # A tree of some files is not the release's tree: it grows with each fetch instead.
        is_tree = folder is None and len(files) == len(tree.files)
        if folder is None:
            folder = await trio.to_thread.run_sync(self._tree_place, resolved)
        return self._store.lay_out(files, folder, is_tree=is_tree)

    def _tree_place(self, resolved: Resolved) -> Path:
        """Where it lies already: a publisher may have got another name here since then."""
        former = former_row(self._store, resolved.digest, _label(resolved))
        place = former.path if former is not None else None
        if place is None or not place.is_relative_to(self._home.releases):
            return self._home.release_tree(_tree_name(resolved))
        return place

    async def _finish(self, plan: _Plan, file: FileRecord) -> None:
        place = None if plan.folder is None else Place(plan.folder, file.path)

        def finish() -> None:
            status = self._store.status(file.object)
            if status is not None and status.state is ObjectState.COMPLETE:
                return  # the layout brings it to its place, and says how
            self._store.finish(file.object, place=place)

        try:
            await trio.to_thread.run_sync(finish)
        except DigestMismatch as error:
            signer = plan.resolved.signer
            who = (
                f"signed by {signer.petname or ''} {signer.publisher_id}" if signer else "unsigned"
            )
            raise DigestMismatch(
                f"{file.path!r} has another SHA-256 than its release states; the release "
                f"({plan.resolved.text}) is {who}",
                path=file.path,
                object=file.object.hex(),
                publisher_id=signer.publisher_id if signer else None,
                expected=file.sha256.hex(),
                **{key: value for key, value in error.facts.items() if key in ("got",)},
            ) from error

    async def _keep(self, plan: _Plan, placement: Placement) -> None:
        """The release is held from now on, and told of."""
        release = Release(
            plan.tree.digest,
            _label(plan.resolved),
            path=placement.path,
            method=placement.summary(),
            added_s=time.time(),
        )
        await trio.to_thread.run_sync(keep, self._store, release, self._home.releases)
        if plan.tree.manifest is None:
            return
        await self._announcing.announce_release(plan.tree.digest, plan.tree.files, is_fetched=True)

    async def _lease(self, digest: Digest, until_s: float) -> None:
        """Before its first document: what is fetched is not collected."""
        await trio.to_thread.run_sync(self._store.lease, digest, FETCH_LEASE, until_s)


def _folder(destination: Path | None) -> Path | None:
    if destination is None:
        return None
    if not destination.is_absolute():
        raise P2phubError("a destination is named by its absolute path", path=str(destination))
    return destination


def _room_taken(status: ObjectStatus) -> int:
    """Bytes that what there is of an object need not be given again."""
    if status.state is not ObjectState.PARTIAL or status.path is None:
        return status.held_bytes
    try:
        blocks_bytes = 512 * status.path.stat().st_blocks  # of a part: given before its first byte
    except OSError:
        return 0
    return max(status.held_bytes, min(blocks_bytes, status.size))


def _objects(files: Sequence[FileRecord]) -> list[FileRecord]:
    """One file per object of several chunks: the first, which is placed by `finish`."""
    first: dict[Digest, FileRecord] = {}
    for file in files:
        if file.has_record:
            first.setdefault(file.object, file)
    return list(first.values())


def _shares(transfer: Transfer) -> list[PeerShare]:
    return [
        PeerShare(peer_id=str(s.peer), address=s.address, bytes=s.received_bytes, fault=s.fault)
        for s in transfer.shares.values()
        if s.received_bytes or s.fault
    ]


def _label(resolved: Resolved) -> str:
    """The name that a release is kept under; "" where it was asked for by its content id."""
    statement = resolved.statement
    if statement is None:
        return ""
    return f"{statement.publisher_id}/{statement.name}@{statement.version}"


def _tree_name(resolved: Resolved) -> tuple[str, ...]:
    """Folder names below `releases/`: by publisher, name and version, or by content id."""
    statement, signer = resolved.statement, resolved.signer
    if statement is None or signer is None:
        return (content_id_text(resolved.digest),)
    return (signer.petname or signer.publisher_id, statement.name, statement.version)


def _method(placement: Placement, data_size: int) -> str:
    """How most of the bytes got to their place."""
    names = {Method.ADOPTED: "adopt", Method.HELD: "present"}
    used = [method for method in Method if placement.methods.get(method)]
    if not used:
        return "present"
    method = used[-1] if 2 * placement.extra_bytes > data_size else used[0]
    return names.get(method, str(method))
