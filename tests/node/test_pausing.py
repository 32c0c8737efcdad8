"""A fetch that meets a full, failing or absent disk pauses, says so, and goes on where it was."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from p2phub.errors import P2phubError, StoreError, StoreFailed, StoreFull
from p2phub.net.memory import MemoryHub
from p2phub.node.api import Fetched, FetchRequest, Progress
from p2phub.node.node import Node
from p2phub.node.pausing import may_pass
from p2phub.proto.names import parse_reference
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import AnyPath, FileSystem
from tests.node.hostile_peers import node_of
from tests.node.real_nodes import address as address_of
from tests.node.real_nodes import fetch as fetch_from
from tests.node.real_nodes import node, publish, same_files, write_model

SIZE = 6_000_000


class SickFileSystem(FileSystem):
    """Refuses calls of some names with `code`, from the moment a part has `after` bytes until it is
    healed. A sync that is refused loses for good what it should have made durable.
    """

    def __init__(self, code: int, refused: Sequence[str], after: int = SIZE // 4) -> None:
        self.is_sick = False
        self.refused_count = 0
        self._code = code
        self._refused = refused
        self._after = after
        self._unsynced: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._written_bytes = 0

    def reach(self, call: str, path: AnyPath) -> None:
        if self.is_sick and call in self._refused:
            self.refused_count += 1
            raise OSError(self._code, os.strerror(self._code), str(path))

    def write(
        self, file: int, data: Sequence[memoryview | bytes], offset: int, path: AnyPath
    ) -> int:
        if ".p2phub-part" in str(path) and self._written_bytes >= self._after and self._after:
            self.is_sick, self._after = True, 0
        size = super().write(file, data, offset, path)
        if ".p2phub-part" in str(path):
            self._written_bytes += size
            self._unsynced.setdefault(_identity(file), []).append((offset, size))
        return size

    def sync_data(self, file: int, path: AnyPath) -> None:
        writes = self._unsynced.pop(_identity(file), [])
        try:
            super().sync_data(file, path)
        except StoreError:
            for offset, size in writes:
                os.pwrite(file, bytes(size), offset)
            raise

    def heal(self) -> None:
        self.is_sick = False


def _identity(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_dev, status.st_ino


def open_below(folder: Path) -> list[str]:
    """Files below a folder that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{folder}/")]


@dataclass
class Watched:
    """A fetch that runs, and what it said."""

    reader: Node
    request: FetchRequest
    said: list[Progress] = field(default_factory=list)
    fetched: Fetched | None = None
    failure: P2phubError | None = None
    paused: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        try:
            self.fetched = await self.reader.fetch(self.request, self._hear)
        except P2phubError as error:
            self.failure = error

    def _hear(self, progress: Progress) -> None:
        self.said.append(progress)
        if progress.stage == "paused":
            self.paused.set()

    def pauses(self) -> list[Progress]:
        return [progress for progress in self.said if progress.stage == "paused"]


async def wanted(publisher: Node, model: Path, to: Path, wait_s: float = 60.0) -> FetchRequest:
    content_id = await publish(publisher, model)
    return FetchRequest(
        reference=parse_reference(content_id),
        destination=to,
        peers=tuple(publisher._network.addresses()),
        room_wait_s=wait_s,
    )


ILLNESSES = [
    (errno.ENOSPC, ["write"], StoreFull),
    (errno.EDQUOT, ["commit"], StoreFull),
    (errno.EIO, ["sync"], StoreFailed),
    (errno.EROFS, ["write", "sync", "commit", "open", "mkdir", "rename"], StoreFailed),
]


@pytest.mark.parametrize(
    ("code", "refused", "kind"), ILLNESSES, ids=[errno.errorcode[code] for code, *_ in ILLNESSES]
)
async def test_a_fetch_pauses_on_a_sick_disk_and_goes_on_when_it_is_well(
    tmp_path: Path, code: int, refused: list[str], kind: type[StoreError]
) -> None:
    hub, disk = MemoryHub(), SickFileSystem(code, refused)
    model = write_model(tmp_path / "model", size=SIZE)
    store = DiskStore(tmp_path / "reader" / "store", files=disk)
    async with (
        node_of(hub, "publisher", tmp_path / "publisher") as publisher,
        node_of(hub, "reader", tmp_path / "reader", store=store) as reader,
    ):
        fetch = Watched(reader, await wanted(publisher, model, tmp_path / "out"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            with trio.fail_after(20):
                await fetch.paused.wait()
            [transfer] = (await reader.status()).transfers
            if kind is StoreFailed:  # which keeps nobody from taking the disk out
                assert open_below(tmp_path / "out") == []
            disk.heal()
        assert fetch.failure is None
        assert fetch.fetched is not None
        assert same_files(model, tmp_path / "out")
        assert disk.refused_count > 0
        assert fetch.fetched.paused_seconds > 0.9
        assert [share.bytes > 0 for share in fetch.fetched.peers] == [True]
        paused = fetch.pauses()[0]
        assert paused.pause is not None
        assert paused.pause.kind == kind.__name__
        assert "goes on" in paused.note
        assert (transfer.progress.stage, transfer.progress.note) == ("paused", paused.note)
        assert 0 < paused.done_bytes <= (paused.total_bytes or 0)
        # Where it was: what was durable is not fetched again, and what is shown never goes back.
        sizes = [p.done_bytes for p in fetch.said if p.stage in ("transfer", "paused")]
        assert sizes == sorted(sizes)
        assert fetch.fetched.bytes_fetched < 2.2 * SIZE  # all twice, where a sync lost it
        assert (await reader.status()).transfers == ()


async def paused_fetch(
    tmp_path: Path, code: int, wait_s: float, then: Callable[[Watched, trio.Nursery], None]
) -> Watched:
    """A fetch whose disk never gets well. then: called once it pauses."""
    hub, disk = MemoryHub(), SickFileSystem(code, ["write"])
    model = write_model(tmp_path / "model", size=SIZE)
    store = DiskStore(tmp_path / "reader" / "store", files=disk)
    async with (
        node_of(hub, "publisher", tmp_path / "publisher") as publisher,
        node_of(hub, "reader", tmp_path / "reader", store=store) as reader,
    ):
        fetch = Watched(reader, await wanted(publisher, model, tmp_path / "out", wait_s))
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    await fetch.run()
                    fetch.paused.set()

                nursery.start_soon(run)
                await fetch.paused.wait()
                then(fetch, nursery)
        # The node lives, and the same command resumes.
        disk.heal()
        assert (await reader.status()).transfers == ()
        await reader.fetch(fetch.request, fetch._hear)
        assert same_files(model, tmp_path / "out")
    return fetch


async def test_a_fetch_that_paused_too_long_ends_with_the_reason(tmp_path: Path) -> None:
    fetch = await paused_fetch(tmp_path, errno.ENOSPC, 1.5, lambda fetch, nursery: None)
    assert isinstance(fetch.failure, StoreFull)
    assert float(str(fetch.failure.facts["waited_s"])) >= 1.4
    assert "Waited" in str(fetch.failure)


async def test_a_fetch_that_may_not_wait_ends_at_once(tmp_path: Path) -> None:
    fetch = await paused_fetch(tmp_path, errno.ENOSPC, 0, lambda fetch, nursery: None)
    assert isinstance(fetch.failure, StoreFull)
    assert fetch.pauses() == []


async def test_what_waiting_cannot_help_ends_a_fetch_at_once(tmp_path: Path) -> None:
    fetch = await paused_fetch(tmp_path, errno.EACCES, 60, lambda fetch, nursery: None)
    assert isinstance(fetch.failure, StoreFailed)
    assert fetch.pauses() == []


async def test_a_fetch_that_pauses_can_be_cancelled(tmp_path: Path) -> None:
    fetch = await paused_fetch(
        tmp_path, errno.EIO, 60, lambda fetch, nursery: nursery.cancel_scope.cancel()
    )
    assert fetch.failure is None
    assert fetch.fetched is None


async def test_a_fetch_waits_for_the_folder_that_it_writes_to(tmp_path: Path) -> None:
    """As when a disk is pulled out: all of the folder is gone, and comes back as it was."""
    hub = MemoryHub()
    model = write_model(tmp_path / "model", size=SIZE)
    async with (
        node_of(hub, "publisher", tmp_path / "publisher", up_rate=4_000_000) as publisher,
        node_of(hub, "reader", tmp_path / "reader") as reader,
    ):
        fetch = Watched(reader, await wanted(publisher, model, tmp_path / "out"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            with trio.fail_after(20):
                while not any(p.stage == "transfer" and p.done_bytes for p in fetch.said):
                    await trio.sleep(0.01)
                (tmp_path / "out").rename(tmp_path / "away")
                await fetch.paused.wait()
                assert not (tmp_path / "out").exists()
                (tmp_path / "away").rename(tmp_path / "out")
        assert fetch.failure is None
        assert same_files(model, tmp_path / "out")
        assert fetch.fetched is not None
        assert fetch.fetched.bytes_fetched < 1.2 * SIZE  # nothing was fetched twice


async def test_what_store_max_and_pins_leave_no_room_for_is_refused_before_the_first_byte(
    tmp_path: Path,
) -> None:
    one, two = write_model(tmp_path / "one"), write_model(tmp_path / "two", seed=2)
    async with node(tmp_path / "a") as a, node(tmp_path / "b", store_max=4_000_000) as b:
        peers = (await address_of(a),)
        pinned = await publish(a, one)
        await fetch_from(b, pinned, peers=peers)
        await b.upkeep.pin(parse_reference(pinned), True)
        wanted = await publish(a, two)
        received_bytes = (await b.status()).received_bytes
        with pytest.raises(StoreFull) as refused:
            await fetch_from(b, wanted, peers=peers)
        assert "store_max" in str(refused.value)
        got_bytes = (await b.status()).received_bytes - received_bytes
        assert got_bytes < 20_000  # the documents that say how large it is
        await b.upkeep.pin(parse_reference(pinned), False)
        fetched = await fetch_from(b, wanted, peers=peers)
        assert same_files(two, fetched.path)
        # What never fits is refused as well.
        large = await publish(a, write_model(tmp_path / "large", size=5_000_000, seed=3))
        with pytest.raises(StoreFull):
            await fetch_from(b, large, peers=peers)


def test_only_what_can_pass_is_waited_for() -> None:
    assert may_pass(StoreFull("", errno=errno.ENOSPC))
    assert may_pass(StoreFull("", needed=5, free=3, limit=10))
    assert may_pass(StoreFailed("", errno=errno.EROFS))
    assert may_pass(StoreFailed("", reason="SQLITE_IOERR_WRITE"))
    assert not may_pass(StoreFull("", needed=50, free=3, limit=10))
    assert not may_pass(StoreFull("", errno=errno.EFBIG))
    assert not may_pass(StoreFailed("", errno=errno.EACCES))
    assert not may_pass(StoreFailed("", reason="SQLITE_CORRUPT"))
    assert not may_pass(StoreFailed("the store is of another kind"))
    assert not may_pass(StoreError(""))
