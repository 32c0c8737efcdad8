"""What a store says of its disk and of work on it: part of `p2phub.store.base`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from p2phub.digest import Digest


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What the store uses of the disk."""

    data_bytes: int  # complete files of the store's own
    part_bytes: int  # preallocated for files under way
    pack_bytes: int  # documents and small files
    adopted_bytes: int  # users' files used in place: not the store's own
    free_bytes: int  # on the store's file system


@dataclass(frozen=True, slots=True)
class CollectedObject:
    """A file's content that is not held any more: take back what was announced of it."""

    object: Digest
    sha256: bytes
    size: int  # bytes of the file


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection took away, or would take away."""

    objects: tuple[CollectedObject, ...]
    forgotten_count: int  # of them: users' files, which stay where they are
    chunk_count: int  # documents and small files
    freed_bytes: int  # on the disk


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What one step of reading again found."""

    read_bytes: int  # right
    damaged_count: int  # chunks that were not as they were written
    is_over: bool  # nothing is left to read


@dataclass(frozen=True, slots=True)
class Reread:
    """What one step of reading touched files again found."""

    read_bytes: int
    believed: tuple[Digest, ...]  # objects that are held again
    changed: tuple[Path, ...]  # files that are not as they were, whatever their times say
    is_over: bool  # nothing is left to read in this round


@dataclass(frozen=True, slots=True)
class Inconsistency:
    """Two things in a store that contradict each other, or something that is lacking."""

    what: str  # one sentence for people
    is_repaired: bool
