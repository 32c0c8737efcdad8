"""Every call by which the store touches the disk, refused in every way a disk has, and what the
store made of it: one row for each place in the store that makes such a call.

    python -m tests.store.fault_table

After each refusal the promises so far hold, the same store lives its life to the end, and another
start finds all of it. A refused sync loses what it should have written for good: a store that tries
again and believes the answer is found out.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from p2phub.errors import (
    CorruptChunk,
    DestinationExists,
    FileChanged,
    StoreError,
    StoreFailed,
    StoreFull,
)
from p2phub.proto.messages import Run
from p2phub.store.base import Release
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import AnyPath
from tests.store.power_cut import FragileFileSystem
from tests.store.sample_files import SampleFile, fetch, manifest_of, read_all, sample
from tests.store.small_life import SmallLife

FAULTS = {
    "no room": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "bad sector": errno.EIO,
    "read-only": errno.EROFS,
    "other disk": errno.EXDEV,
    "gone": errno.ENOENT,  # the disk is not mounted any more, from this call on
}
FULL = (errno.ENOSPC, errno.EDQUOT)
IDLE_S = 1e12  # seconds since 1970: every part is idle by then
UNHANDLED = "UNHANDLED"

HURT = sample(30_000, seed=21)
LET_GO = sample(25_000, seed=22)

_BELOW = ("p2phub.store.file_system", "p2phub.store.index")  # who makes the calls of others
Site = tuple[str, str]  # call, the function of the store that made it


class FaultyFileSystem(FragileFileSystem):
    """Refuses the first call of one site; a refused sync loses what was to be synced."""

    def __init__(self, trash: Path, site: Site | None = None, code: int = 0) -> None:
        super().__init__(trash)
        self.sites: Counter[Site] = Counter()
        self.is_gone = False
        self.was_met = False
        self._site = site
        self._code = code
        self._lost: dict[tuple[int, int], list[tuple[int, int]]] = {}  # byte ranges by inode
        self._paths: dict[tuple[int, int], str] = {}

    def reach(self, call: str, path: AnyPath) -> None:
        super().reach(call, path)
        site = call, _caller(sys._getframe(1))
        self.sites[site] += 1
        if self.is_gone:
            raise OSError(self._code, os.strerror(self._code), str(path))
        if site == self._site and not self.was_met:
            self.was_met = True
            self.is_gone = self._code == errno.ENOENT
            raise OSError(self._code, os.strerror(self._code), str(path))

    def sync_data(self, file: int, path: AnyPath) -> None:
        try:
            super().sync_data(file, path)
        except StoreError:
            self._lose(file)
            raise

    def sync(self, file: int, path: AnyPath) -> None:
        try:
            super().sync(file, path)
        except StoreError:
            self._lose(file)
            raise

    def write(
        self, file: int, data: Sequence[memoryview | bytes], offset: int, path: AnyPath
    ) -> int:
        size = super().write(file, data, offset, path)
        self._rewritten(file, offset, offset + size)
        return size

    def truncate(self, file: int, size: int, path: AnyPath) -> None:
        super().truncate(file, size, path)
        self._rewritten(file, size, 1 << 62)

    def carry_out(self) -> None:
        """What a start after a power cut finds: what a refused sync lost is zeros."""
        for identity, ranges in self._lost.items():
            file = self._files.get(identity)
            if file is None:
                continue
            end = os.fstat(file).st_size
            for start, stop in ranges:
                os.pwrite(file, bytes(max(0, min(stop, end) - start)), start)
        self._lost = {}

    def _lose(self, file: int) -> None:
        status = os.fstat(file)
        identity = status.st_dev, status.st_ino
        writes = self._writes.pop(identity, [])
        lost = self._lost.setdefault(identity, [])
        lost += [(offset, offset + len(before)) for offset, before, _ in writes]

    def _rewritten(self, file: int, start: int, stop: int) -> None:
        status = os.fstat(file)
        identity = status.st_dev, status.st_ino
        left = []
        for low, high in self._lost.get(identity, []):
            left += [(low, min(high, start))] if low < start else []
            left += [(max(low, stop), high)] if high > stop else []
        if identity in self._lost:
            self._lost[identity] = left


def _caller(frame: FrameType | None) -> str:
    """The function of the store that led here."""
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("p2phub.store.") and module not in _BELOW:
            name = frame.f_code.co_qualname.replace(".<locals>", "").replace(".<lambda>", "")
            return f"{module.rpartition('.')[2]}.{name}"
        frame = frame.f_back
    return "?"


@dataclass
class WholeLife:
    """All that a store ever does to a disk, again and again if need be."""

    root: Path
    small: SmallLife = field(init=False)

    def __post_init__(self) -> None:
        self.small = SmallLife(self.root)

    def live(self, open_store: Callable[[], DiskStore]) -> DiskStore:
        store = open_store()
        try:
            self.small.live(store)
            self._lose_a_chunk(store)
            self._let_go(store)
            self._check_all(store)
        finally:
            store.close()
        (self.root / "store" / "index.db").unlink()  # made again by the next start
        return open_store()

    def check(self, store: DiskStore) -> None:
        store.recheck()  # the touched file may have been touched and not compared yet
        store.check(is_repair=True)
        store.withdrawn()
        if "discarded" in self.small.facts:  # a check gives what a refused unlink left a row again
            store.discard_part(sys.modules["tests.store.small_life"].SHARED.object)
        kept = {release.name: release.is_pinned for release in store.releases()}
        if "release" in self.small.facts:  # others may be kept beside it
            self.small.facts["release"] = lambda _: "one" in kept
        if "pin" in self.small.facts:
            self.small.facts["pin"] = lambda _: kept["one"]
        self.small.check(store)

    def _lose_a_chunk(self, store: DiskStore) -> None:
        """A bad sector in a whole file: found, set aside, fetched again."""
        if store.status(HURT.object) is None:
            self._keep(store, HURT, "hurt")
        fetch(store, HURT)
        store.finish(HURT.object)
        status = store.status(HURT.object)
        assert status is not None and status.path is not None
        status.path.chmod(0o644)
        with open(status.path, "r+b") as file:
            file.seek(2500)
            file.write(b"rotten")
        status.path.chmod(0o444)
        run = HURT.runs()[0]
        try:
            store.span_reader([run]).read(0, 8, memoryview(bytearray(8000)))
        except CorruptChunk:
            pass
        store.withdrawn()
        store.open_part(HURT.object)
        data = memoryview(HURT.data)
        store.span_writer([Run(run.page, 2, 3)]).write(0, 1, data[2000:3000])
        store.finish(HURT.object)
        assert read_all(store, HURT) == HURT.data

    def _let_go(self, store: DiskStore) -> None:
        """What nobody keeps is collected; what the small life has is kept."""
        for name, file in (("big", "BIG"), ("placed", "PLACED"), ("taken", "TAKEN")):
            self._keep(store, getattr(sys.modules["tests.store.small_life"], file), name)
        small = sys.modules["tests.store.small_life"].SMALL
        store.add_release(Release(small.object, "small"))
        manifest = self._keep(store, LET_GO, "let go")
        fetch(store, LET_GO)
        store.finish(LET_GO.object)
        store.remove_release(manifest)
        store.collect(IDLE_S)
        assert store.status(LET_GO.object) is None
        for release in store.releases():
            if release.name != "one":
                store.remove_release(release.manifest, release.name)

    def _check_all(self, store: DiskStore) -> None:
        """A file that nobody knows, one that was touched, and everything compared and read."""
        (self.root / "store" / "part" / "junk").write_bytes(b"junk")
        taken = store.status(sys.modules["tests.store.small_life"].TAKEN.object)
        if taken is not None and taken.path is not None:
            taken.path.chmod(0o600)
        store.recheck()
        store.withdrawn()
        for _ in range(2):  # what a bad sector kept from being repaired is repaired the next time
            store.check(is_repair=True)
        assert store.check(is_repair=False) == []
        while not store.scrub(1.0, 2.0).is_over:
            pass

    def _keep(self, store: DiskStore, file: SampleFile, name: str) -> bytes:
        manifest, page = manifest_of({name: file})
        store.put([manifest.encode(), page.encode(), *file.documents])
        store.add_release(Release(manifest.digest, name))
        return manifest.digest


def meet(root: Path, site: Site | None, code: int) -> tuple[str, FaultyFileSystem]:
    """Live with one refusal; how it ended, in a word or two."""
    root.mkdir()
    files = FaultyFileSystem(root / "trash", site, code)
    life = WholeLife(root)
    outcome = "goes on"
    opened = lambda: DiskStore(root / "store", files=files)  # noqa: E731
    try:
        for _ in range(3):  # the first time that there is nothing, then that all is there
            try:
                life.live(opened).close()
            except (StoreFull, StoreFailed) as error:
                is_right = isinstance(error, StoreFull) == (code in FULL)
                if not is_right or error.facts.get("errno") != code or "path" not in error.facts:
                    raise
                assert outcome == "goes on", f"{outcome}, and again: {error}"
                outcome = type(error).__name__
            except (FileChanged, DestinationExists) as error:
                if code != errno.ENOENT:
                    raise
                outcome = type(error).__name__  # a file of the user's that is not there
            files.is_gone = False
            store = opened()
            if outcome == "FileChanged":  # the user did change it, which the index can't know yet
                store.recheck()
                store.withdrawn()
            life.check(store)
            store.close()
        files.carry_out()
        store = DiskStore(root / "store")
        life.check(store)
        store.close()
    except Exception as error:
        outcome = f"{UNHANDLED}: {error!r}"
    finally:
        files.close_all()
    return outcome, files


def table(folder: Path, faults: Iterable[str] = FAULTS) -> dict[Site, dict[str, str]]:
    """Outcomes by site and fault; a fault that a site never met is not there."""
    _, files = meet(folder / "whole", None, 0)
    found: dict[Site, dict[str, str]] = {}
    for number, site in enumerate(sorted(files.sites)):
        found[site] = {}
        for fault in faults:
            root = folder / f"{number}-{fault}"
            outcome, met = meet(root, site, FAULTS[fault])
            if met.was_met:
                found[site][fault] = outcome
            shutil.rmtree(root)
    return found


def page(found: dict[Site, dict[str, str]]) -> str:
    """The table as people read it."""
    faults = [fault for fault in FAULTS if any(fault in row for row in found.values())]
    rows = [["call", "made by", *faults], ["---"] * (len(faults) + 2)]
    for (call, caller), row in found.items():
        rows.append([call, caller, *(row.get(fault, "") for fault in faults)])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as made:
        print(page(table(Path(made))), end="")
