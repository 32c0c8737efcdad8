"""Publishing: a folder into the store, then metadata that its owner's own command has signed.

No signing key comes here. `prepare` reads the folder and keeps it; the command line signs what it
returns; `commit` verifies those signatures as any follower would, and only then is the release kept
under its name, served and announced.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from p2phub.core.content.release import ReleaseTerms as ContentTerms
from p2phub.core.discovery.keys import KeyKind
from p2phub.digest import Digest, sha256
from p2phub.errors import DestinationExists, FileChanged, ReleaseNotFound, UsageError
from p2phub.net.base import Network
from p2phub.node.announcing import Announcing
from p2phub.node.api import Prepared, Progress, ProgressSink, Published, ReleaseTerms
from p2phub.node.publishers import Publishers
from p2phub.node.tasks import open_tasks
from p2phub.node.upkeep import keep
from p2phub.paths import Home
from p2phub.proto.content_id import content_id_text
from p2phub.proto.names import ReleaseReference, parse_publisher_id
from p2phub.store.base import Method, Placement, Release, SourceFile, Store
from p2phub.store.folder import FolderListing, list_folder
from p2phub.store.ingest import IngestResult, ingest_listed
from p2phub.store.ingest import Progress as IngestProgress
from p2phub.store.reading import Stopped
from p2phub.trust.petnames import Petnames

T = TypeVar("T")
LEASE_S = 24 * 3600.0  # between `prepare` and `commit`: a person may have to find a passphrase


class Publishing:
    """The publishing half of a node."""

    def __init__(
        self,
        network: Network,
        store: Store,
        publishers: Publishers,
        petnames: Petnames,
        announcing: Announcing,
        home: Home,
    ) -> None:
        self._home = home
        self._network = network
        self._store = store
        self._publishers = publishers
        self._petnames = petnames
        self._announcing = announcing

    async def prepare(self, folder: Path, terms: ReleaseTerms, progress: ProgressSink) -> Prepared:
        """As NodeApi.publish_prepare."""
        if not folder.is_absolute():
            raise UsageError("a folder to publish is named by its absolute path", path=str(folder))
        return await self.take(lambda: self.listed(folder), lambda sources: None, terms, progress)

    def listed(self, folder: Path) -> FolderListing:
        """What a folder holds. Raises UsageError where that would be this node's own keys."""
        chosen, home, keys = (
            Path(os.path.realpath(path)) for path in (folder, self._home.root, self._home.keys)
        )
        if home.is_relative_to(chosen) or chosen.is_relative_to(keys):
            raise UsageError(
                f"{folder} holds this node's own keys, of the home {self._home.root}: nothing was"
                " published; choose a folder that has the release and nothing else",
                path=str(folder),
            )
        return list_folder(folder)

    async def take(
        self,
        list_files: Callable[[], FolderListing],
        check: Callable[[Sequence[SourceFile]], None],
        terms: ReleaseTerms,
        progress: ProgressSink,
    ) -> Prepared:
        """Files into the store, as `prepare`. check: raises where what was read is not what it must
        be; called in a thread, before anything is kept.
        """
        token = trio.lowlevel.current_trio_token()
        stop = threading.Event()

        def on_progress(state: IngestProgress) -> None:
            report = Progress("scan", state.bytes_done, state.bytes_total)
            token.run_sync_soon(progress, report, idempotent=False)

        def work() -> tuple[IngestResult, Placement]:
            content_terms = ContentTerms(
                kind=terms.kind,
                license=terms.license,
                tags=terms.tags,
                base=terms.base,
                datasets=terms.datasets,
                card=terms.card,
            )
            with self._store.keeping():
                result = ingest_listed(
                    list_files,
                    content_terms,
                    put=self._store.put,
                    on_progress=on_progress,
                    cancelled=stop.is_set,
                )
                check(result.sources)
                placement = self._store.take(result.sources)
                self._store.lease(result.digest, "publish", time.time() + LEASE_S)
            return result, placement

        try:
            result, placement = await _in_thread(work, stop)
        except FileNotFoundError as error:
            raise FileChanged(f"{error.filename} vanished while it was read") from None
        method = next(
            (m for m in (Method.REFLINK, Method.ADOPTED) if placement.methods.get(m)), Method.HELD
        )
        root = result.release.root
        return Prepared(
            manifest=result.digest,
            manifest_length=len(root),
            manifest_sha256=sha256(root),
            kind=terms.kind,
            file_count=len(result.sources),
            data_size=result.size,
            reused_bytes=0,
            extra_bytes=placement.extra_bytes,
            method="adopt" if method is Method.ADOPTED else str(method),
            addresses=tuple(self._network.addresses()),
        )

    async def keep(self, manifest: Digest) -> int:
        """Keep and announce what was prepared under its content id alone; names announced."""
        release = Release(manifest, origin="published", added_s=time.time(), is_pinned=True)
        await trio.to_thread.run_sync(keep, self._store, release, self._home.releases)
        await trio.to_thread.run_sync(self._store.lease, manifest, "publish", 0)
        return await self._announcing.announce_release(manifest)

    async def commit(
        self, publisher_id: str, name: str, version: str, files: Mapping[str, bytes], petname: str
    ) -> Published:
        """As NodeApi.publish_commit."""
        parse_publisher_id(publisher_id)
        view = await self._publishers.import_metadata(publisher_id, files)
        follower = self._publishers.follower(publisher_id)
        statement = await trio.to_thread.run_sync(follower.resolve, name, version, time.time())
        manifest = statement.manifest_digest
        if statement.publisher_id != publisher_id:
            raise ReleaseNotFound(f"the metadata does not name {name}@{version}", name=name)
        root = await trio.to_thread.run_sync(self._store.get, manifest)
        if len(root) != statement.manifest_length or sha256(root) != statement.manifest_sha256:
            raise DestinationExists("the signed statement and the prepared manifest differ")
        known = self._petnames.names_of(publisher_id)
        if not known:
            await trio.to_thread.run_sync(self._petnames.add, petname, publisher_id, time.time())
            known = (petname,)
        label = f"{publisher_id}/{statement.name}@{statement.version}"
        release = Release(manifest, label, origin="published", added_s=time.time(), is_pinned=True)
        await trio.to_thread.run_sync(keep, self._store, release, self._home.releases)
        await trio.to_thread.run_sync(self._store.lease, manifest, "publish", 0)
        announced = await self._announcing.announce_release(manifest)
        announced += self._announcing.add(KeyKind.PUBLISHER, parse_publisher_id(publisher_id))
        peers = view.peers or tuple(self._network.addresses())
        reference = ReleaseReference(
            publisher_id, statement.name, statement.version, tuple(peers[:4])
        )
        return Published(
            reference=str(reference),
            petname=known[0],
            content_id=content_id_text(manifest),
            publisher_id=publisher_id,
            name=statement.name,
            version=statement.version,
            announced=announced,
        )


async def _in_thread(work: Callable[[], T], stop: threading.Event) -> T:
    """Run `work` in a thread; when the caller is cancelled, `stop` tells the thread so and it is
    waited for.
    """
    done = trio.Event()

    async def tell() -> None:
        try:
            await done.wait()
        finally:
            stop.set()

    async with open_tasks() as nursery:
        nursery.start_soon(tell)
        try:
            return await trio.to_thread.run_sync(work)
        except Stopped:
            await trio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            done.set()
    raise AssertionError("a nursery returns or raises")
