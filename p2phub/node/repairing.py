"""Making kept releases whole again: what the disk damaged or lost is fetched from peers as at
first, by the documents that name it, and trees under the home are laid out anew where wrong.

By itself it does so for what the disk damaged; when asked (`check`), for all that a kept release
had and lacks. Meanwhile nothing of it is held, so nothing of it is served.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from p2phub.core.discovery.keys import KeyKind
from p2phub.digest import Digest
from p2phub.errors import (
    ContentError,
    CorruptChunk,
    DigestMismatch,
    NoProvider,
    NotHeld,
    P2phubError,
    TransferStalled,
)
from p2phub.node.announcing import Announcing
from p2phub.node.api import Progress, ProgressSink
from p2phub.node.documents import Documents
from p2phub.node.fetching import Fetching, OnTransfer
from p2phub.node.publishers import Publishers
from p2phub.node.resolving import Resolved, Resolver
from p2phub.node.search import Search
from p2phub.node.trees import Tree, held_tree, hold_chunk_lists, load_tree, record_of
from p2phub.node.upkeep import Upkeep
from p2phub.node.upkeep_api import CheckReport, Mended
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text
from p2phub.proto.manifest import FileRecord
from p2phub.proto.names import parse_publisher_id
from p2phub.store.base import Links, ObjectState, Release, Store

RETRY_S = 3600.0  # before what nobody had is asked for again
PAUSE_S = 60.0  # between two passes, so that a dying disk does not fetch without end
FILES_TOLD_MAX = 100  # of one release
REPAIR_STALL_S = 20.0  # without a byte from the peers found: who repairs waits for an answer
ROUNDS_ALONE_MAX = 2  # of a search that finds nobody at all: a few seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Lack:
    """What a kept release had and lacks."""

    files: tuple[FileRecord, ...]
    are_documents_missing: bool  # of the file list: then nobody knows of files yet

    def __bool__(self) -> bool:
        return bool(self.files) or self.are_documents_missing


class Repairing:
    """See `p2phub.node.upkeep_api.RepairApi`. `run` must run."""

    def __init__(
        self,
        *,
        home: Home,
        store: Store,
        documents: Documents,
        resolver: Resolver,
        publishers: Publishers,
        fetching: Fetching,
        upkeep: Upkeep,
        announcing: Announcing,
        on_transfer: OnTransfer,
        on_notice: Callable[[str, str], None],
    ) -> None:
        self._home = home
        self._store = store
        self._documents = documents
        self._resolver = resolver
        self._publishers = publishers
        self._fetching = fetching
        self._upkeep = upkeep
        self._announcing = announcing
        self._on_transfer = on_transfer
        self._on_notice = on_notice
        self._woken = trio.Event()
        self._mending = trio.Lock()
        self._told: set[str] = set()  # content ids of releases that are known not to be whole

    def wake(self) -> None:
        """The disk damaged something."""
        self._woken.set()

    async def run(self) -> None:
        """Fetch again what the disk damaged, until cancelled."""
        while True:
            await trio.sleep(PAUSE_S)
            self._woken = trio.Event()
            try:
                await self.mend_damaged()
            except P2phubError as error:
                log.warning("what the disk damaged can't be looked up: %s", error)
            with trio.move_on_after(RETRY_S):
                await self._woken.wait()

    async def mend_damaged(self) -> tuple[Mended, ...]:
        """Fetch again what the disk damaged of kept releases; what became of each."""
        damaged = set(await trio.to_thread.run_sync(self._store.damaged))
        mended = await self._mend(damaged, is_all=False, is_repair=True) if damaged else ()
        failed = {release.content_id for release in mended if release.failure}
        for release in mended:
            if not release.failure:
                self._on_notice("Repaired", f"{release.reference} is whole again")
            elif release.content_id not in self._told:
                again = f"it is asked for again every {RETRY_S / 3600:.0f} h"
                self._on_notice(
                    "Repaired", f"{release.reference} is not whole: {release.failure}; {again}"
                )
        self._told = failed  # once, until it was whole
        return mended

    async def check(self, repair: bool, progress: ProgressSink) -> CheckReport:
        """As RepairApi.check."""
        started_s = trio.current_time()
        await trio.to_thread.run_sync(self._store.recheck)
        found = await trio.to_thread.run_sync(lambda: self._store.check(is_repair=repair))
        scrubbed = await self._upkeep.scrub(progress)
        damaged = set(await trio.to_thread.run_sync(self._store.damaged))
        mended = await self._mend(damaged, is_all=True, is_repair=repair, progress=progress)
        open_count = sum(not inconsistency.is_repaired for inconsistency in found)
        return CheckReport(
            inconsistencies=tuple(inconsistency.what for inconsistency in found),
            open_count=open_count,
            read_bytes=scrubbed.read_bytes,
            damaged_count=scrubbed.damaged_count,
            releases=mended,
            is_right=not open_count and not any(release.failure for release in mended),
            seconds=trio.current_time() - started_s,
        )

    # ---- one release after another ---------------------------------------------------------------

    async def _mend(
        self,
        damaged: set[Digest],
        *,
        is_all: bool,
        is_repair: bool,
        progress: ProgressSink = lambda progress: None,
    ) -> tuple[Mended, ...]:
        """is_all: also what was lost in other ways, and trees under the home."""
        found = []
        async with self._mending:
            for release in await trio.to_thread.run_sync(self._store.releases):
                lack = await trio.to_thread.run_sync(self._lack, release, damaged, is_all)
                wrong: list[str] = []
                if is_all:
                    wrong = await trio.to_thread.run_sync(self._wrong_in_tree, release)
                if not lack and not wrong:
                    continue
                fetched_bytes, failure = 0, "nothing was repaired"
                if is_repair:
                    fetched_bytes, failure = await self._mend_one(
                        release, damaged, is_all, progress
                    )
                paths = dict.fromkeys([*(file.path for file in lack.files), *wrong])
                found.append(
                    Mended(
                        reference=release.name or content_id_text(release.manifest),
                        content_id=content_id_text(release.manifest),
                        files=tuple(paths)[:FILES_TOLD_MAX],
                        fetched_bytes=fetched_bytes,
                        failure=failure,
                    )
                )
        return tuple(found)

    async def _mend_one(
        self, release: Release, damaged: set[Digest], is_all: bool, progress: ProgressSink
    ) -> tuple[int, str]:
        """Bytes from peers, and why the release is still not whole ("": it is)."""
        before_bytes = self._documents.received_bytes
        payload_bytes = 0
        try:
            peers = await trio.to_thread.run_sync(self._peers_of, release)
            keys = [(KeyKind.MANIFEST, release.manifest)]
            async with self._resolver.search(keys, peers) as search:
                text = release.name or content_id_text(release.manifest)
                tree = await load_tree(release.manifest, self._documents, self._store, search, text)
                lack = await trio.to_thread.run_sync(self._lack, release, damaged, is_all)
                if lack:
                    payload_bytes = await self._fetch(tree, lack.files, text, search, progress)
            checked = tree.files if is_all else lack.files
            await trio.to_thread.run_sync(self._lay_out, release, checked)
            await self._announcing.announce_release(release.manifest)
        except (NoProvider, TransferStalled) as error:
            failure = (
                f"no peer that could be reached has what is lacking. Run p2phub fsck --repair when "
                f"its publisher or another holder is online ({error})"
            )
            return payload_bytes + self._documents.received_bytes - before_bytes, failure
        except (P2phubError, OSError) as error:
            return payload_bytes + self._documents.received_bytes - before_bytes, str(error)
        return payload_bytes + self._documents.received_bytes - before_bytes, ""

    async def _fetch(
        self,
        tree: Tree,
        files: Sequence[FileRecord],
        text: str,
        search: Search,
        progress: ProgressSink,
    ) -> int:
        """Have files of a held tree whole, as a fetch does; bytes from peers."""
        await hold_chunk_lists(files, self._documents, self._store, search, text)
        wanted_bytes = await trio.to_thread.run_sync(self._wanted_bytes, files)
        await self._upkeep.make_room(tree.digest, wanted_bytes)
        await trio.to_thread.run_sync(self._open_parts, files)
        resolved = Resolved(tree.digest, text, None, None)
        transfer = await self._fetching.transfer(
            tree,
            files,
            resolved,
            search,
            stall_timeout_s=REPAIR_STALL_S,
            rounds_alone_max=ROUNDS_ALONE_MAX,
        )
        total_bytes = transfer.statistics().total_bytes
        if not transfer.machine.is_complete:
            progress(Progress("transfer", 0, total_bytes))
            with self._on_transfer(transfer, resolved, total_bytes):
                await transfer.run()
        await trio.to_thread.run_sync(self._store.checkpoint)
        for file in files:
            await trio.to_thread.run_sync(self._finish, file)
        progress(Progress("complete", total_bytes, total_bytes))
        return sum(share.received_bytes for share in transfer.shares.values())

    # ---- in worker threads -----------------------------------------------------------------------

    def _lack(self, release: Release, damaged: set[Digest], is_all: bool) -> _Lack:
        """is_all: what it had and lacks for any reason; else what the disk damaged."""
        store = self._store
        try:
            tree = held_tree(store, release.manifest)
        except (NotHeld, CorruptChunk):
            return _Lack((), is_all or bool(damaged))
        except ContentError:
            return _Lack((), False)  # those who signed it never meant it to be read
        complete, singles = store.held_among(tree.files)
        held = complete | singles
        lists = damaged - {file.object for file in tree.files}
        lacking = []
        for file in tree.files:
            if not file.size or (not file.has_record and file.object in held):
                continue
            if not is_all:
                if file.object in damaged or self._is_list_in(file, lists):
                    lacking.append(file)
            elif self._is_lacking(release, file, damaged):
                lacking.append(file)
        return _Lack(tuple(lacking), False)

    def _is_lacking(self, release: Release, file: FileRecord, damaged: set[Digest]) -> bool:
        """Whether a file was here and is not whole; a small one is known not to be held."""
        status = self._store.status(file.object)
        if file.has_record and status is not None:
            if status.state is ObjectState.CONDEMNED:
                return False  # it never was what its release says
            return status.state is not ObjectState.COMPLETE or not self._has_list(file)
        was_placed = release.path is not None and os.path.lexists(release.path / file.path)
        return status is not None or file.object in damaged or was_placed

    def _has_list(self, file: FileRecord) -> bool:
        try:
            record = record_of(self._store, file)
        except (NotHeld, CorruptChunk):
            return False
        return all(self._store.has(segment.digest) for segment in record.segments)

    def _is_list_in(self, file: FileRecord, names: set[Digest]) -> bool:
        """Whether the segments of a file are among `names`."""
        if not file.has_record or not names:
            return False
        try:
            record = record_of(self._store, file)
        except (NotHeld, CorruptChunk):
            return False
        return any(segment.digest in names for segment in record.segments)

    def _wrong_in_tree(self, release: Release) -> list[str]:
        """Files of a tree under the home that are not what the release says: every one is read."""
        if release.path is None or not release.path.is_relative_to(self._home.releases):
            return []
        try:
            files = held_tree(self._store, release.manifest).files
        except P2phubError:
            return []
        return self._store.conflicts(files, release.path)

    def _lay_out(self, release: Release, files: Sequence[FileRecord]) -> None:
        """Put right what is wrong in a tree under the home."""
        if release.path is None or not release.path.is_relative_to(self._home.releases):
            return
        wrong = set(self._store.conflicts(files, release.path))
        for path in wrong:
            (release.path / path).unlink()
        again = [file for file in files if file.path in wrong]
        if again:
            self._store.place_files(again, release.path, links=Links.OWN)

    def _peers_of(self, release: Release) -> tuple[str, ...]:
        """Where its publisher says that it can be had."""
        publisher_id = release.name.partition("/")[0]
        try:
            parse_publisher_id(publisher_id)
            return self._publishers.follower(publisher_id).known(time.time()).peers
        except P2phubError:
            return ()

    def _wanted_bytes(self, files: Sequence[FileRecord]) -> int:
        """What they will take beside what the store has."""
        wanted = {}
        for file in files:
            status = self._store.status(file.object)
            if status is None or status.state is ObjectState.CHANGED:
                wanted[file.object] = file.size
        return sum(wanted.values())

    def _open_parts(self, files: Sequence[FileRecord]) -> None:
        for file in files:
            if file.has_record:
                self._store.open_part(file.object)
                status = self._store.status(file.object)
                if status is not None and status.state is ObjectState.PARTIAL:
                    self._store.reuse(file.object)

    def _finish(self, file: FileRecord) -> None:
        self._store.finish(file.object)
        status = self._store.status(file.object)
        if status is not None and status.sha256 != file.sha256:
            raise DigestMismatch(
                f"{file.path} has another SHA-256 than its release states: do not trust it",
                path=file.path, expected=file.sha256.hex(), got=status.sha256.hex(),
            )  # fmt: skip
