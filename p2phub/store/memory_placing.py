"""Laying files out for people from a store in memory: every file is a copy."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from p2phub.errors import DestinationExists, FileChanged
from p2phub.paths import tree_under_way
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import Method, Placement, SourceFile
from p2phub.store.file_system import FileSystem
from p2phub.store.stamps import FileStamp
from p2phub.store.trees import Tree, remove_tree


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """See `Layout`: nothing is laid out ahead."""

    place: Callable[[], Placement]

    def advance(self, size_max: int) -> int:
        return 0

    def discard(self) -> None:
        pass


class MemoryPlacing:
    """Lays out files of one store. whole: gives the verified bytes of a file, raises NotHeld."""

    def __init__(self, whole: Callable[[FileRecord], bytes]) -> None:
        self._whole = whole
        self._files = FileSystem()

    def lay_out(
        self, files: Sequence[FileRecord], folder: Path, *, is_tree: bool = False
    ) -> MemoryLayout:
        make = self.materialize if is_tree else self.place_files
        return MemoryLayout(partial(make, files, folder))

    def materialize(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        if os.path.lexists(destination):
            wrong = self.conflicts(files, destination)
            wrong += [file.path for file in files if not os.path.lexists(destination / file.path)]
            if wrong:
                raise DestinationExists(f"{destination} holds other files", paths=wrong)
            return Placement(destination, {Method.HELD: len(files)}, 0)
        scratch = tree_under_way(destination.parent, secrets.token_hex(8))
        try:
            placement = self.place_files(files, scratch)
            for file in files:
                os.chmod(scratch / file.path, 0o444)
            os.rename(scratch, destination)
        finally:
            remove_tree(scratch)
        return replace(placement, path=destination)

    def place_files(self, files: Sequence[FileRecord], folder: Path) -> Placement:
        wrong = self.conflicts(files, folder)
        if wrong:
            raise DestinationExists(f"{folder} holds other files", paths=wrong)
        contents = {file.path: self._whole(file) for file in files}
        methods: dict[Method, int] = {}
        extra = 0
        with Tree(self._files, folder) as tree:
            for file in files:
                method = Method.HELD
                if tree.status(file.path) is None:
                    method = Method.COPY
                    extra += file.size
                    with tree.parent_of(file.path) as (parent, name):
                        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                        target = self._files.open(name, flags, folder=parent)
                        self._files.write(target, [contents[file.path]], 0, file.path)
                        self._files.close(target)
                methods[method] = methods.get(method, 0) + 1
        return Placement(folder, methods, extra)

    def conflicts(self, files: Sequence[FileRecord], folder: Path) -> list[str]:
        if not os.path.lexists(folder):
            return []
        wrong = []
        with Tree(self._files, folder) as tree:
            for file in files:
                try:
                    is_there = tree.status(file.path) is not None
                except DestinationExists:
                    is_there = True
                if is_there and not tree.equals(file.path, file.size, file.sha256):
                    wrong.append(file.path)
        return wrong


def read_unchanged(file: SourceFile) -> bytes:
    """A file of the user's. Raises FileChanged if it is not as its stamp says."""
    try:
        with open(file.path, "rb") as source:
            before = FileStamp.of(os.fstat(source.fileno()))
            data = source.read()
            if before == file.stamp == FileStamp.of(os.fstat(source.fileno())):
                return data
    except FileNotFoundError:
        pass
    raise FileChanged(f"{file.path} changed while it was read", path=str(file.path))
