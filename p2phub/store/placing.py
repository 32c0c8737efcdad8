"""Laying complete files out for people: a read-only tree of a release, or the user's own copies in
a folder of theirs.

A tree appears whole or not at all: built beside its place, synced, renamed. In a folder that exists
new folders appear whole, files in the others one by one. Nothing is ever overwritten.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from p2phub.digest import Digest, Sha256, sha256
from p2phub.errors import CorruptChunk, DestinationExists, DigestMismatch, NotHeld
from p2phub.paths import PART_FOLDER, TREE_UNDER_WAY, tree_under_way
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import FileStamp, Method, ObjectState, Placement
from p2phub.store.file_system import failure, failures
from p2phub.store.holdings import Holdings
from p2phub.store.merging import merge_tree
from p2phub.store.objects import StoredObject
from p2phub.store.parts import remove_empty
from p2phub.store.trees import Tree, remove_tree

READ_BYTES = 1 << 20
GROUP_FILES_MAX = 256  # small files read and written together: one look-up for all of them
GROUP_BYTES_MAX = 8 << 20
SYNC_EACH_MAX = 32  # files synced one by one; beyond it the whole file system is synced once


class Placing:
    """Lays out files of one store."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._files = holdings.files
        self._without_reflink: set[tuple[int, int]] = set()  # pairs of devices
        self._recomputed: list[tuple[bytes, Digest]] = []  # SHA-256 and name of small files
        self._scratches: set[Path] = set()  # of trees being built now

    def materialize(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        """See `Store.materialize`."""
        if os.path.lexists(destination):
            return self._accept(files, destination)
        self._check_held(files)
        self._files.make_folder(destination.parent)
        scratch = self._scratch(destination.parent)
        try:
            placement = Placement(destination)
            with Tree(self._files, scratch) as tree:
                extra = self._make_all(
                    tree, files, placement.methods, is_read_only=True, is_linked=True
                )
                self._sync(tree, len(files))
                tree.sync_made()
            try:
                self._files.rename_new(scratch, destination)
            except FileExistsError:
                return self._accept(files, destination)
            self._files.sync_folder(destination.parent)
            return Placement(destination, placement.methods, extra)
        finally:
            remove_tree(scratch)
            self._scratches.discard(scratch)

    def place_files(
        self, files: Sequence[FileRecord], folder: Path, *, is_linked: bool = False
    ) -> Placement:
        """See `Store.place_files`."""
        there = self._there(files, folder)
        methods: dict[Method, int] = {}
        left = [file for file in files if file.path not in there]
        for file in files:
            if file.path in there:
                methods[there[file.path]] = methods.get(there[file.path], 0) + 1
        if not left:
            return Placement(folder, methods, 0)
        self._check_held(left)
        hidden = self._scratch(folder / PART_FOLDER)
        try:
            with Tree(self._files, hidden) as scratch:
                extra = self._make_all(
                    scratch, left, methods, is_read_only=False, is_linked=is_linked
                )
                self._sync(scratch, len(left))
                scratch.sync_made()
            try:
                merge_tree(self._files, hidden, folder)
            except FileExistsError as error:
                path = os.path.relpath(error.filename, folder)
                raise _in_the_way(folder, [path]) from None
        finally:
            remove_tree(hidden)
            self._scratches.discard(hidden)
            remove_empty(hidden.parent)
        return Placement(folder, methods, extra)

    def conflicts(self, files: Sequence[FileRecord], folder: Path) -> list[str]:
        """See `Store.conflicts`."""
        if not os.path.lexists(folder):
            return []
        found = []
        with Tree(self._files, folder) as tree:
            for file in files:
                try:
                    if tree.status(file.path) is not None and not self._is_there(tree, file):
                        found.append(file.path)
                except DestinationExists:
                    found.append(file.path)
        return found

    def _scratch(self, above: Path) -> Path:
        """A new name for a tree under way. What a crash left of others there is taken away."""
        chosen = tree_under_way(above, secrets.token_hex(8))
        self._scratches.add(chosen)
        with failures(above):
            for stale in above.glob(f"{TREE_UNDER_WAY}*"):
                if stale not in self._scratches:
                    remove_tree(stale)
        return chosen

    # ---- what is there already

    def _accept(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        there = self._there(files, destination)
        missing = [file.path for file in files if file.path not in there]
        if missing:
            raise _in_the_way(destination, missing)
        return Placement(destination, {Method.HELD: len(files)}, 0)

    def _there(self, files: Sequence[FileRecord], folder: Path) -> dict[str, Method]:
        """Which files lie in `folder` as they must, and how; DestinationExists if one is something
        else.
        """
        found: dict[str, Method] = {}
        if not os.path.lexists(folder):
            return found
        with failures(folder):
            is_folder = folder.is_dir()
        if not is_folder:
            raise _in_the_way(folder, ["."])
        wrong = []
        with Tree(self._files, folder) as tree:
            for file in files:
                if tree.status(file.path) is None:
                    continue
                method = self._is_there(tree, file)
                if method is None:
                    wrong.append(file.path)
                else:
                    found[file.path] = method
        if wrong:
            raise _in_the_way(folder, wrong)
        return found

    def _is_there(self, tree: Tree, file: FileRecord) -> Method | None:
        """How an equal file came to be there; None if it is not equal.

        Read whole unless the store knows it.
        """
        status = tree.status(file.path)
        if status is None or status.st_size != file.size:
            return None
        object = self._holdings.named(file.object)
        if object is not None and object.row.state is ObjectState.COMPLETE:
            identity = status.st_dev, status.st_ino
            stamp = object.row.stamp
            is_same = stamp == FileStamp.of(status)
            if stamp is not None and (is_same or (stamp.device, stamp.inode) == identity):
                return Method.ADOPTED if is_same and object.row.sha256 == file.sha256 else None
            try:
                own = os.lstat(self._holdings.path(object))
                if (own.st_dev, own.st_ino) == identity and object.row.sha256 == file.sha256:
                    return Method.HARDLINK
            except OSError:
                pass
        return Method.HELD if tree.equals(file.path, file.size, file.sha256) else None

    # ---- making one file

    def _check_held(self, files: Sequence[FileRecord]) -> None:
        singles = [file for file in files if file.chunk_count == 1]
        held = self._holdings.has([file.object for file in singles], is_durable=False)
        for file in files:
            if file.chunk_count == 1:
                is_held = file.object in held
            elif file.has_record:
                object = self._holdings.named(file.object)
                is_held = object is not None and object.row.state is ObjectState.COMPLETE
                if is_held and object is not None and object.row.sha256 != file.sha256:
                    raise _mismatch(file, object.row.sha256)
            else:
                is_held = True
            if not is_held:
                raise NotHeld(f"{file.path} is not complete here: fetch it first", path=file.path)

    def _make_all(
        self,
        tree: Tree,
        files: Sequence[FileRecord],
        methods: dict[Method, int],
        *,
        is_read_only: bool,
        is_linked: bool,
    ) -> int:
        """Make files at their paths in a tree of ours; how many bytes that took. methods: counted
        on.
        """
        extra = 0
        for group in _groups(files):
            if self._write_group(tree, group, is_read_only=is_read_only):
                methods[Method.COPY] = methods.get(Method.COPY, 0) + len(group)
                extra += sum(file.size for file in group)
                continue
            for file in group:
                method, size = self._make(
                    tree, file.path, file, is_read_only=is_read_only, is_linked=is_linked
                )
                methods[method] = methods.get(method, 0) + 1
                extra += size
        return extra

    def _write_group(self, tree: Tree, files: Sequence[FileRecord], *, is_read_only: bool) -> bool:
        """Write files of one folder out of packs. False, and nothing was made: some lie elsewhere
        or are not as they must be.
        """
        names = [file.object for file in files]
        if files[0].chunk_count != 1:  # what lies in packs by its name is the record
            return False
        places = self._holdings.index.locations(names)
        if any(name not in places for name in names):
            return False
        buffer = memoryview(bytearray(sum(file.size for file in files)))
        views, offset = [], 0
        for file in files:
            views.append(buffer[offset : offset + file.size])
            offset += file.size
        try:
            self._holdings.read_singles(list(zip(names, views, strict=True)), places)
        except (NotHeld, CorruptChunk):
            return False
        if any(sha256(view) != file.sha256 for file, view in zip(files, views, strict=True)):
            return False
        with tree.parent_of(files[0].path) as (folder, _):
            for file, view in zip(files, views, strict=True):
                name, where = file.path.rpartition("/")[2], tree.folder / file.path
                target = self._files.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, folder=folder)
                try:
                    self._files.write(target, [view], 0, where)
                    if is_read_only:
                        self._files.set_mode(target, 0o444, where)
                finally:
                    self._files.close(target)
        self._recomputed += ((file.sha256, file.object) for file in files)
        return True

    def _make(
        self, tree: Tree, path: str, file: FileRecord, *, is_read_only: bool, is_linked: bool
    ) -> tuple[Method, int]:
        """Make `path` in a tree of ours that nobody else writes to; how, and how many bytes that
        took.
        """
        object = self._holdings.named(file.object) if file.chunk_count else None
        is_whole = object is not None and object.row.state is ObjectState.COMPLETE
        with tree.parent_of(path) as (folder, name):
            where = tree.folder / path
            target = self._files.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, folder=folder)
            try:
                if file.chunk_count == 0:
                    method, size = Method.COPY, 0
                elif object is not None and is_whole and self._clone(object, target, where):
                    method, size = Method.REFLINK, 0
                elif object is not None and is_whole and is_linked and object.row.kind == "data":
                    self._files.remove(where)
                    if self._files.link(self._holdings.path(object), name, target_folder=folder):
                        return Method.HARDLINK, 0
                    self._files.close(target)
                    target = self._files.open(
                        name, os.O_RDWR | os.O_CREAT | os.O_EXCL, folder=folder
                    )
                    method, size = Method.COPY, self._copy(object, file, target, where)
                elif object is not None and is_whole:
                    method, size = Method.COPY, self._copy(object, file, target, where)
                else:
                    method, size = Method.COPY, self._write_single(file, target, where)
                if is_read_only:
                    self._files.set_mode(target, 0o444, where)
            finally:
                self._files.close(target)
        return method, size

    def _clone(self, object: StoredObject, target: int, where: Path) -> bool:
        source_path = self._holdings.path(object)
        try:
            source = self._files.open(source_path, os.O_RDONLY)
        except FileNotFoundError:
            self._holdings.withdraw(object, "was removed")
            raise NotHeld(f"{source_path} was removed", path=str(source_path)) from None
        try:
            pair = (
                self._files.status(source, source_path).st_dev,
                self._files.status(target, where).st_dev,
            )
            if pair in self._without_reflink:
                return False
            first = memoryview(bytearray(1))
            # Reading a byte compares the stamp of a file of the user's, before and after.
            self._holdings.read(object, 0, first)
            if not self._files.clone(source, target, where):
                self._without_reflink.add(pair)
                return False
            self._holdings.read(object, 0, first)
            return True
        finally:
            self._files.close(source)

    def _copy(self, object: StoredObject, file: FileRecord, target: int, where: Path) -> int:
        state, buffer = Sha256(), memoryview(bytearray(READ_BYTES))
        for offset in range(0, file.size, READ_BYTES):
            view = buffer[: min(READ_BYTES, file.size - offset)]
            got = self._holdings.read(object, offset, view)
            state.update(view[:got])
            self._files.write(target, [view[:got]], offset, where)
        if state.digest() != object.row.sha256:
            raise CorruptChunk(
                f"{self._holdings.path(object)} is not as it was written: check the disk",
                path=str(self._holdings.path(object)),
            )
        return file.size

    def _write_single(self, file: FileRecord, target: int, where: Path) -> int:
        data = self._holdings.get(file.object)
        got = sha256(data)
        if len(data) != file.size or got != file.sha256:
            raise _mismatch(file, got)
        self._recomputed.append((got, file.object))
        return self._files.write(target, [data], 0, where)

    def _sync(self, tree: Tree, count: int) -> None:
        """Make the contents of all files in a tree durable, and what was learned of small ones."""
        recomputed, self._recomputed = self._recomputed, []
        if recomputed:
            with self._holdings.index.transaction() as change:
                change.add_small_files(recomputed)
        with failures(tree.folder):
            root = self._files.open(tree.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if count > SYNC_EACH_MAX:
                self._files.sync_file_system(root, tree.folder)
                return
        finally:
            self._files.close(root)
        for path in _files_below(tree.folder):
            with failures(path):
                file = self._files.open(path, os.O_RDONLY)
            try:
                self._files.sync(file, path)
            finally:
                self._files.close(file)


def _groups(files: Sequence[FileRecord]) -> Iterator[list[FileRecord]]:
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


def _in_the_way(folder: Path, paths: Sequence[str]) -> DestinationExists:
    shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    is_file = list(paths) == ["."]
    what = f"{folder} is no folder" if is_file else f"{folder} holds something else at {shown}"
    return DestinationExists(
        f"{what}: nothing was overwritten; choose another folder",
        folder=str(folder), paths=list(paths[:100]),
    )  # fmt: skip


def _mismatch(file: FileRecord, got: bytes) -> DigestMismatch:
    return DigestMismatch(
        f"the manifest states a false SHA-256 for {file.path}: do not trust the release",
        path=file.path, sha256=file.sha256.hex(), got=got.hex(),
    )  # fmt: skip
