"""Making the files of one tree out of what the store holds: small ones in groups out of packs,
others by reflink, hard link or copy. Every byte that is copied is hashed on its way.

The tree is ours and hidden; who shows it is placing.py. Nothing made here is durable before `sync`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from p2phub.digest import Digest, Sha256, sha256
from p2phub.display import size_text
from p2phub.errors import CorruptChunk, DigestMismatch, NotHeld, StoreFull
from p2phub.proto.manifest import FileRecord
from p2phub.store.allocating import HEADROOM_BYTES
from p2phub.store.base import Method, ObjectState
from p2phub.store.file_system import failure, failures
from p2phub.store.holdings import Holdings
from p2phub.store.objects import StoredObject
from p2phub.store.second_names import SecondNames
from p2phub.store.trees import Tree

READ_BYTES = 1 << 20
GROUP_FILES_MAX = 256  # small files read and written together: one look-up for all of them
GROUP_BYTES_MAX = 8 << 20
THREADS_MAX = 4  # that write groups at once: each has one in memory
SYNC_EACH_MAX = 32  # files synced one by one; beyond it the whole file system is synced once

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


@dataclass(slots=True)
class Making:
    """Makes files at their paths in one tree that nobody else writes to."""

    holdings: Holdings
    tree: Tree
    is_read_only: bool
    names: SecondNames  # where blocks can't be shared
    without_reflink: set[tuple[int, int]]  # pairs of devices, as found so far by anybody
    methods: dict[Method, int] = field(default_factory=dict)
    extra_bytes: int = 0
    _recomputed: list[tuple[bytes, Digest]] = field(default_factory=list)  # of small files
    _has_room: bool = False  # for all of one `make_all` that is to be copied
    _lock: Lock = field(default_factory=Lock)  # guards methods, extra_bytes and _recomputed

    def make_all(self, files: Sequence[FileRecord]) -> None:
        """With all cores, since the transfer is over.

        Raises NotHeld, CorruptChunk, DigestMismatch, and what the disk refuses; StoreFull before
        the first copy where there is no room for all that will be copied.
        """
        self._has_room = False
        threads = ThreadPoolExecutor(min(os.cpu_count() or 1, THREADS_MAX), "making")
        try:
            some = list(groups(files))
            for group, is_written in zip(some, threads.map(self.write_group, some), strict=True):
                for file in () if is_written else group:
                    self._count(*self._make(file, files), 1)
        finally:
            threads.shutdown(cancel_futures=True)

    def write_group(self, files: Sequence[FileRecord]) -> bool:
        """Write files of one folder out of packs; threads may do so side by side. False, and
        nothing was made: some lie elsewhere, are not durable yet or are not as they must be.
        """
        if files[0].chunk_count != 1:  # what lies in packs by its name is the record
            return False
        # Where the last one lacks, the others need not be looked for: they come in order for most.
        if len(files) > 1 and not self.holdings.index.in_packs([files[-1].object]):
            return False
        places = self.holdings.index.locations([file.object for file in files])
        try:
            located = [places[file.object] for file in files]
            views = self.holdings.packs.read_together(located)
        except (KeyError, FileNotFoundError):
            return False
        # Of a file of one chunk, this says as much as the chunk's own name.
        if any(sha256(view) != file.sha256 for file, view in zip(files, views, strict=True)):
            return False
        disk, above = self.holdings.files, self.tree.folder
        with self.tree.parent_of(files[0].path) as (folder, _):
            for file, view in zip(files, views, strict=True):
                target = disk.open(file.path.rpartition("/")[2], _NEW, folder=folder)
                try:
                    disk.write(target, [view], 0, f"{above}/{file.path}")
                    if self.is_read_only:
                        disk.set_mode(target, 0o444, f"{above}/{file.path}")
                finally:
                    disk.close(target)
        with self._lock:
            self._recomputed += [(file.sha256, file.object) for file in files]
        self._count(Method.COPY, sum(file.size for file in files), len(files))
        return True

    def _count(self, method: Method, size: int, count: int) -> None:
        with self._lock:
            self.methods[method] = self.methods.get(method, 0) + count
            self.extra_bytes += size

    def _make(self, file: FileRecord, among: Sequence[FileRecord]) -> tuple[Method, int]:
        """How it was made, and how many bytes that took. among: all that are being made."""
        disk, tree = self.holdings.files, self.tree
        object = self.holdings.objects.named(file.object) if file.chunk_count else None
        is_whole = object is not None and object.row.state is ObjectState.COMPLETE
        with tree.parent_of(file.path) as (folder, name):
            where = tree.folder / file.path
            target = disk.open(name, _NEW, folder=folder)
            try:
                if file.chunk_count == 0:
                    method, size = Method.COPY, 0
                elif object is not None and is_whole and self._clone(object, target, where):
                    method, size = Method.REFLINK, 0
                elif object is not None and is_whole:
                    if self.names.are_for(object):
                        disk.remove(where)
                        if self.names.give(object, name, folder, where):
                            return Method.HARDLINK, 0
                        disk.close(target)
                        target = disk.open(name, _NEW, folder=folder)
                    self._check_room(among)
                    method, size = Method.COPY, self._copy(object, file, target, where)
                else:
                    method, size = Method.COPY, self._write_single(file, target, where)
                if self.is_read_only:
                    disk.set_mode(target, 0o444, where)
            finally:
                disk.close(target)
        return method, size

    def _clone(self, object: StoredObject, target: int, where: Path) -> bool:
        source_path = self.holdings.path(object)
        try:
            source = self.holdings.files.open(source_path, os.O_RDONLY)
        except FileNotFoundError:
            self.holdings.withdraw(object, "was removed")
            raise NotHeld(f"{source_path} was removed", path=str(source_path)) from None
        try:
            pair = (
                self.holdings.files.status(source, source_path).st_dev,
                self.holdings.files.status(target, where).st_dev,
            )
            if pair in self.without_reflink:
                return False
            first = memoryview(bytearray(1))
            # Reading a byte compares the stamp of a file of the user's, before and after.
            self.holdings.read(object, 0, first)
            if not self.holdings.files.clone(source, target, where):
                self.without_reflink.add(pair)
                return False
            self.holdings.read(object, 0, first)
            return True
        finally:
            self.holdings.files.close(source)

    def _check_room(self, files: Sequence[FileRecord]) -> None:
        """Before the first copy: a disk that others use is not filled for what has to go again."""
        if self._has_room:
            return
        self._has_room = True
        above = self.tree.folder.parent
        device = self.holdings.files.status(self.tree.root, above).st_dev
        wanted_bytes = 0
        for file in files:
            object = self.holdings.objects.named(file.object) if file.has_record else None
            if object is None:
                continue
            try:
                source = os.lstat(self.holdings.path(object)).st_dev
            except OSError:
                continue  # found out when its turn comes
            is_linked = source == device and self.names.are_for(object)
            if (source, device) in self.without_reflink and not is_linked:
                wanted_bytes += file.size
        spared_bytes = min(wanted_bytes, HEADROOM_BYTES)
        needed = wanted_bytes + spared_bytes
        free = self.holdings.files.free_bytes(above)
        if free < needed:
            raise StoreFull(
                f"{size_text(wanted_bytes)} are to be copied to {above}, which shares no blocks"
                f" with where they lie, and {size_text(free)} are free there, of which"
                f" {size_text(spared_bytes)} are left alone",
                path=str(above), needed=needed, free=free,
            )  # fmt: skip

    def _copy(self, object: StoredObject, file: FileRecord, target: int, where: Path) -> int:
        state, buffer = Sha256(), memoryview(bytearray(READ_BYTES))
        for offset in range(0, file.size, READ_BYTES):
            view = buffer[: min(READ_BYTES, file.size - offset)]
            got = self.holdings.read(object, offset, view)
            state.update(view[:got])
            self.holdings.files.write(target, [view[:got]], offset, where)
        if state.digest() != object.row.sha256:
            raise CorruptChunk(
                f"{self.holdings.path(object)} is not as it was written: check the disk",
                path=str(self.holdings.path(object)),
            )
        return file.size

    def _write_single(self, file: FileRecord, target: int, where: Path) -> int:
        data = self.holdings.get(file.object)
        got = sha256(data)
        if len(data) != file.size or got != file.sha256:
            raise mismatch(file, got)
        with self._lock:
            self._recomputed.append((got, file.object))
        return self.holdings.files.write(target, [data], 0, where)

    def sync(self, *, is_each: bool) -> None:
        """Make the contents of all files durable, and what was learned of small ones.

        is_each: file by file, which is quicker for a few that were just made.
        """
        recomputed, self._recomputed = self._recomputed, []
        if recomputed:
            with self.holdings.index.transaction() as change:
                change.add_small_files(recomputed)
        disk = self.holdings.files
        if not is_each:
            # By the descriptor from before the first file: what the system failed to write since
            # then, and told nobody, it tells here.
            disk.sync_file_system(self.tree.root, self.tree.folder)
            return
        for path in _files_below(self.tree.folder):
            with failures(path):
                file = disk.open(path, os.O_RDONLY)
            try:
                disk.sync(file, path)
            finally:
                disk.close(file)


def groups(files: Sequence[FileRecord]) -> Iterator[list[FileRecord]]:
    """Files that lie side by side and are of one chunk, so many at a time; others by themselves."""
    group: list[FileRecord] = []
    size, folder = 0, ""
    for file in files:
        above = file.path.rpartition("/")[0]
        is_full = len(group) >= GROUP_FILES_MAX or size + file.size > GROUP_BYTES_MAX
        if group and (is_full or above != folder or file.chunk_count != 1):
            yield group
            group, size = [], 0
        if file.chunk_count != 1:
            yield [file]
            continue
        group.append(file)
        size, folder = size + file.size, above
    if group:
        yield group


def _files_below(folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise failure(error, folder) from error  # not listed would be not synced

    for above, _, names in os.walk(folder, onerror=stop):
        for name in names:
            yield Path(above) / name


def mismatch(file: FileRecord, got: bytes) -> DigestMismatch:
    return DigestMismatch(
        f"the manifest states a false SHA-256 for {file.path}: do not trust the release",
        path=file.path, sha256=file.sha256.hex(), got=got.hex(),
    )  # fmt: skip
