"""Laying complete files out for people: a read-only tree of a release, or the user's own copies in
a folder of theirs.

A tree appears whole or not at all: built beside its place, synced, renamed. In a folder that exists
new folders appear whole, files in the others one by one. Nothing is ever overwritten. Small files
are laid out in the hidden tree as they become durable; nothing is believed of it after a crash.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from p2phub.errors import DestinationExists, NotHeld
from p2phub.paths import PART_FOLDER, TREE_UNDER_WAY, tree_under_way
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import Links, Method, ObjectState, Placement
from p2phub.store.file_system import failures
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Journal
from p2phub.store.making import SYNC_EACH_MAX, Making, groups, mismatch
from p2phub.store.merging import merge_tree
from p2phub.store.parts import remove_empty
from p2phub.store.second_names import SecondNames
from p2phub.store.stamps import FileStamp
from p2phub.store.trees import Tree, remove_tree


class Placing:
    """Lays out files of one store."""

    def __init__(self, holdings: Holdings, journal: Journal) -> None:
        self._holdings = holdings
        self._journal = journal
        self.files = holdings.files
        self._without_reflink: set[tuple[int, int]] = set()  # pairs of devices
        self._scratches: set[Path] = set()  # of trees being built now

    def lay_out(
        self,
        files: Sequence[FileRecord],
        folder: Path,
        *,
        is_tree: bool = False,
        links: Links = Links.NONE,
    ) -> DiskLayout:
        """See `Store.lay_out`."""
        links = Links.OWN if is_tree else links
        return DiskLayout(self, files, folder, is_tree=is_tree, links=links)

    def materialize(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        """See `Store.materialize`."""
        return self.lay_out(files, destination, is_tree=True).place()

    def place_files(
        self, files: Sequence[FileRecord], folder: Path, *, links: Links = Links.NONE
    ) -> Placement:
        """See `Store.place_files`."""
        return self.lay_out(files, folder, links=links).place()

    def conflicts(self, files: Sequence[FileRecord], folder: Path) -> list[str]:
        """See `Store.conflicts`."""
        if not os.path.lexists(folder):
            return []
        found = []
        with Tree(self.files, folder) as tree:
            for file in files:
                try:
                    if tree.status(file.path) is not None and not self._is_there(tree, file):
                        found.append(file.path)
                except DestinationExists:
                    found.append(file.path)
        return found

    def begin(self, above: Path, *, is_read_only: bool, links: Links) -> Making:
        """A new tree under way. What a crash left of others there is taken away."""
        chosen = tree_under_way(above, secrets.token_hex(8))
        self._scratches.add(chosen)
        with failures(above):
            for stale in above.glob(f"{TREE_UNDER_WAY}*"):
                if stale not in self._scratches:
                    remove_tree(stale)
        try:
            tree = Tree(self.files, chosen)
        except BaseException:
            self._scratches.discard(chosen)
            raise
        names = SecondNames(self._holdings, self._journal, links)
        return Making(self._holdings, tree, is_read_only, names, self._without_reflink)

    def end(self, making: Making) -> None:
        """A tree was shown, or is given up: what is left of it goes."""
        try:
            making.tree.close()
            remove_tree(making.tree.folder)
            self._scratches.discard(making.tree.folder)
            remove_empty(making.tree.folder.parent)
        finally:
            making.names.settle()

    # ---- what is there already

    def accept(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        there = self.there(files, destination)
        missing = [file.path for file in files if file.path not in there]
        if missing:
            raise _in_the_way(destination, missing)
        return Placement(destination, {Method.HELD: len(files)}, 0)

    def met(self, files: Sequence[FileRecord], folder: Path) -> list[FileRecord]:
        """Those of `files` on whose way something lies in `folder` already; one look for each name
        in it.
        """
        tops = {file.path.partition("/")[0] for file in files}
        there = {top for top in tops if os.path.lexists(f"{folder}/{top}")}
        return [file for file in files if file.path.partition("/")[0] in there]

    def there(self, files: Sequence[FileRecord], folder: Path) -> dict[str, Method]:
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
        with Tree(self.files, folder) as tree:
            for file in self.met(files, folder):
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
        object = self._holdings.objects.named(file.object)
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

    def check_held(self, files: Sequence[FileRecord]) -> None:
        singles = [file for file in files if file.chunk_count == 1]
        held = self._holdings.has([file.object for file in singles], is_durable=False)
        for file in files:
            if file.chunk_count == 1:
                is_held = file.object in held
            elif file.has_record:
                object = self._holdings.objects.named(file.object)
                is_held = object is not None and object.row.state is ObjectState.COMPLETE
                if is_held and object is not None and object.row.sha256 != file.sha256:
                    raise mismatch(file, object.row.sha256)
            else:
                is_held = True
            if not is_held:
                raise NotHeld(f"{file.path} is not complete here: fetch it first", path=file.path)


class DiskLayout:
    """See `Layout`."""

    def __init__(
        self,
        placing: Placing,
        files: Sequence[FileRecord],
        folder: Path,
        *,
        is_tree: bool,
        links: Links,
    ) -> None:
        self._placing = placing
        self._given = files
        self._folder = folder
        self._is_tree = is_tree
        self._links = links
        self._making: Making | None = None  # what is laid out so far
        self._done: dict[str, FileRecord] = {}  # in it, by path
        self._left: list[list[FileRecord]] | None = None  # groups to lay out ahead; None: not begun
        self._had_folder = True
        self._lock = Lock()

    def advance(self, size_max: int) -> int:
        """See `Layout.advance`."""
        with self._lock:
            if self._left is None:
                self._left = self._groups_ahead()
            size, passed = 0, list[list[FileRecord]]()
            try:
                while self._left and size < size_max:
                    group = self._left.pop()
                    if self._begun().write_group(group):
                        self._done.update((file.path, file) for file in group)
                        size += sum(file.size for file in group)
                    else:
                        passed.append(group)
            except BaseException:
                self._give_up()
                raise
            self._left += reversed(passed)
            return size

    def place(self) -> Placement:
        """See `Layout.place`."""
        with self._lock:
            try:
                return self._place_tree() if self._is_tree else self._place_files()
            finally:
                self._give_up()

    def discard(self) -> None:
        """See `Layout.discard`."""
        with self._lock:
            self._give_up()

    def _groups_ahead(self) -> list[list[FileRecord]]:
        """The last first. None where so few are no work, or would replace something."""
        singles = [file for file in self._given if file.chunk_count == 1]
        if len(singles) <= SYNC_EACH_MAX or (self._is_tree and os.path.lexists(self._folder)):
            return []
        if os.path.lexists(self._folder):
            met = self._placing.met(singles, self._folder)
            taken = {file.path for file in met if os.path.lexists(self._folder / file.path)}
            singles = [file for file in singles if file.path not in taken]
        return list(groups(singles))[::-1]

    def _begun(self) -> Making:
        if self._making is None:
            self._had_folder = os.path.lexists(self._folder)
            above = self._folder.parent if self._is_tree else self._folder / PART_FOLDER
            self._making = self._placing.begin(above, is_read_only=self._is_tree, links=self._links)
        return self._making

    def _give_up(self) -> None:
        making, self._making = self._making, None
        self._done, self._left = {}, []
        if making is None:
            return
        self._placing.end(making)
        if not self._had_folder and not self._is_tree:
            try:
                os.rmdir(self._folder)
            except OSError:
                pass  # files are in it

    def _place_tree(self) -> Placement:
        placing, files, folder = self._placing, self._given, self._folder
        if os.path.lexists(folder):
            return placing.accept(files, folder)
        placing.check_held(files)
        making = self._make(files)
        try:
            placing.files.rename_new(making.tree.folder, folder)
        except FileExistsError:
            return placing.accept(files, folder)
        placing.files.sync_folder(folder.parent)
        return Placement(folder, making.methods, making.extra_bytes)

    def _place_files(self) -> Placement:
        placing, folder = self._placing, self._folder
        there = placing.there(self._given, folder)
        left = [file for file in self._given if file.path not in there]
        methods = dict(Counter(there[file.path] for file in self._given if file.path in there))
        if not left:
            return Placement(folder, methods, 0)
        placing.check_held(left)
        making = self._make(left)
        try:
            merge_tree(placing.files, making.tree.folder, folder)
        except FileExistsError as error:
            raise _in_the_way(folder, [os.path.relpath(error.filename, folder)]) from None
        for method, count in making.methods.items():
            methods[method] = methods.get(method, 0) + count
        return Placement(folder, methods, making.extra_bytes)

    def _make(self, files: Sequence[FileRecord]) -> Making:
        """All of `files` in the tree under way, and nothing else; durable."""
        wanted = {file.path for file in files}
        if not self._done.keys() <= wanted:
            self._give_up()  # the user brought some of them meanwhile
        making = self._begun()
        is_ahead = bool(self._done)
        making.make_all([file for file in files if file.path not in self._done])
        making.sync(is_each=not is_ahead and len(files) <= SYNC_EACH_MAX)
        making.tree.sync_made()
        return making


def _in_the_way(folder: Path, paths: Sequence[str]) -> DestinationExists:
    shown = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    is_file = list(paths) == ["."]
    what = f"{folder} is no folder" if is_file else f"{folder} holds something else at {shown}"
    return DestinationExists(
        f"{what}: nothing was overwritten; choose another folder",
        folder=str(folder), paths=list(paths[:100]),
    )  # fmt: skip
