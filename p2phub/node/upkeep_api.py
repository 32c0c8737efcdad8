"""What the doors may ask of a node's disk, and the values they get back: part of `NodeApi`, under
the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from p2phub.node.progress import ProgressSink
from p2phub.proto.names import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What a collection took from the disk, or would take."""

    freed_bytes: int
    file_count: int  # of more than one chunk, or users' own
    forgotten_count: int  # of them: users' own, which stay where they are
    chunk_count: int  # documents and small files
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """Releases that are not kept any more."""

    references: tuple[str, ...]  # as they were kept: <publisher id>/<name>@<version> or content id
    content_ids: tuple[str, ...]
    trees: tuple[Path, ...]  # under the home, and gone
    folders: tuple[Path, ...]  # of the user's; they stay
    freed: Freed


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """Whether releases may be removed to make room."""

    references: tuple[str, ...]
    content_ids: tuple[str, ...]
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubReport:
    """The whole disk, read again."""

    read_bytes: int  # and right
    damaged_count: int  # chunks that were cleared and set aside
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """A kept release of which something was lacking or wrong."""

    reference: str  # as it is kept: <publisher id>/<name>@<version> or content id
    content_id: str
    files: tuple[str, ...]  # paths that were lacking or wrong; none: only documents were
    fetched_bytes: int  # from peers, verified
    failure: str  # why it is still not whole; "": it is


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a store says in several places, compared, and all that it holds, read again."""

    inconsistencies: tuple[str, ...]  # between index, files, packs and journal; one sentence each
    open_count: int  # of them: not repaired
    read_bytes: int  # and right
    damaged_count: int  # chunks that were cleared and set aside
    releases: tuple[Mended, ...]
    is_right: bool  # nothing is wrong any more
    seconds: float


class UpkeepApi(Protocol):
    """Room on the disk and the state of what lies there."""

    async def remove(self, reference: Reference) -> Removed:
        """Keep a release no longer, and free what nothing else needs. Files that a user put
        somewhere stay.

        Raises NotHeld, UnknownPetname, UsageError where several versions are held and none is
        named.
        """
        ...

    async def pin(self, reference: Reference, pinned: bool) -> Pinned:
        """Protect a release from being removed for room, or stop to. Raises as `remove`."""
        ...

    async def collect(self, dry_run: bool) -> Freed:
        """Free what no release names and nobody uses. Raises CorruptChunk where a kept file list
        can't be read: then nothing was taken."""
        ...

    async def scrub(self, progress: ProgressSink) -> ScrubReport:
        """Read all that is held again. Cancelled: the next one goes on where it stopped.

        What was damaged is then fetched from peers again by itself.
        """
        ...


class RepairApi(Protocol):
    """Whether all that is kept is whole and right, and making it so."""

    async def check(self, repair: bool, progress: ProgressSink) -> CheckReport:
        """Compare index, files, packs and journal, read all that is held again, and look what kept
        releases lack.

        repair: make again what can be made again from here, and fetch from peers what kept releases
        lack. Cancelled at any point nothing is worse than before.
        """
        ...
