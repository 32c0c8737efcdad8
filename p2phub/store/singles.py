"""Chunks that are files of their own, many at once: read where the index said that they lie."""

from __future__ import annotations

import os
from collections.abc import Sequence

from p2phub.digest import Digest, digest
from p2phub.errors import NotHeld, StoreFailed
from p2phub.store.holdings import Holdings
from p2phub.store.packs import Location
from p2phub.store.rows import SingleFile


class Singles:
    """Such chunks of one span, for one thread at a time."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._places: dict[Digest, Location | SingleFile] = {}

    def find(self, names: Sequence[Digest]) -> set[Digest]:
        """Ask the index where they lie, in packs or as whole files; those that it does not know."""
        index = self._holdings.index
        found: dict[Digest, Location | SingleFile] = {**index.locations(names)}
        left = [name for name in names if name not in found]
        if left:
            found |= index.single_files(left)
        self._places |= found
        return {name for name in left if name not in found}

    def read(self, chunks: Sequence[tuple[Digest, memoryview]]) -> None:
        """Fill each view with the chunk of that name, verified now, wherever it lies by now.

        Raises NotHeld, CorruptChunk.
        """
        for name, into in chunks:
            match self._places.get(name):
                case Location() as location:
                    is_read = self._read_packed(location, into)
                case SingleFile() as file:
                    is_read = self._read_once(name, file, into)
                case _:
                    is_read = False
            if is_read and digest(into) == name:
                continue
            data = self._holdings.get(name)  # not indexed yet, not there any more, or damaged
            if len(data) != len(into):
                raise NotHeld(f"the chunk {name.hex()} is not as long as its page says")
            into[:] = data

    def _read_packed(self, location: Location, into: memoryview) -> bool:
        """Whether a chunk of a pack was read, unverified."""
        packs, size = self._holdings.packs, len(into)
        try:
            return location.length == size and packs.read(location, into) == size
        except FileNotFoundError:
            return False

    def _read_once(self, name: Digest, single: SingleFile, into: memoryview) -> bool:
        """Whether a small file was read, unverified: its stamp says no more than its digest will.
        It is opened for this alone: of many such files none is read twice soon, and a descriptor
        kept would cost another file its own.
        """
        files, path = self._holdings.files, single.path or self._holdings.folder.whole(name)
        try:
            file = files.open(path, os.O_RDONLY)
            try:
                return files.read(file, into, 0, path) == len(into)
            finally:
                files.close(file)
        except (FileNotFoundError, StoreFailed):
            return False
