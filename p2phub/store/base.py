"""What p2phub needs from a disk: verified chunks in, verified chunks out, files whole at the end.

The node, the gateway and the tests write against this page alone. `p2phub.store.disk.DiskStore`
keeps everything below one folder; `p2phub.store.memory.MemoryStore` keeps it in memory. Both pass
one contract suite.

Words. A chunk is *written* when its bytes were verified and handed to the operating system, and
*durable* when a crash can no longer take it back. Both may be read; only durable chunks are told to
others (`held`). An object is *usable* chunk by chunk as they arrive, and *complete* only after the
SHA-256 of the whole file was recomputed here.

All calls are synchronous, may block on the disk and may come from any thread at once. All digests
are 32 bytes of BLAKE3.
Every call may raise StoreFull or StoreFailed when the disk refuses; nothing half-done is ever
believed.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from p2phub.digest import Digest
from p2phub.proto.manifest import FilePage, FileRecord
from p2phub.proto.messages import Run
from p2phub.store.reports import Collected as Collected
from p2phub.store.reports import CollectedObject as CollectedObject
from p2phub.store.reports import Inconsistency as Inconsistency
from p2phub.store.reports import Reread as Reread
from p2phub.store.reports import Scrubbed as Scrubbed
from p2phub.store.reports import StoreUsage as StoreUsage
from p2phub.store.stamps import FileStamp

CHECKPOINT_BYTES = 32 << 20  # written and not yet durable: a crash loses at most this much
CHECKPOINT_S = 2.0  # and at most this many seconds of a download
INCONSISTENCIES_MAX = 1000  # told by one check: more help nobody
PART_IDLE_S = 3600.0  # what was read in passing may be read again within this time


class ObjectState(StrEnum):
    """What is known of one file's content on this machine."""

    PARTIAL = "partial"  # some chunks held (or none yet): usable where held
    COMPLETE = "complete"  # all chunks held and the SHA-256 recomputed here
    CONDEMNED = "condemned"  # all chunks genuine, but the SHA-256 its record claims is false
    CHANGED = "changed"  # it lay in a user's file that was edited or removed: nothing is held


class Method(StrEnum):
    """How a file came to where it is, from the cheapest."""

    HELD = "held"  # was there already
    REFLINK = "reflink"  # blocks shared by the file system, 0 extra bytes
    ADOPTED = "adopted"  # the user's own file is used where it lies, 0 extra bytes
    HARDLINK = "hardlink"  # a second name of the same file, 0 extra bytes
    COPY = "copy"  # bytes written once more


class Links(StrEnum):
    """Which files may get a second name instead of a copy, where blocks can't be shared."""

    NONE = "none"
    OWN = "own"  # the store's own: read-only, so that nobody edits both by accident
    ALL = "all"  # the user's too, because they asked for it: an edit of one changes the other


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the user's that was read, cut and hashed whole: what `take` needs to hold it."""

    path: Path  # absolute
    stamp: FileStamp  # the same before and after it was read
    record: FileRecord


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file of a release shall lie: `path` was checked by proto/file_paths, `folder` is
    the user's word."""

    folder: Path  # absolute
    path: str  # relative, '/' between components


@dataclass(frozen=True, slots=True)
class Placement:
    """How files were taken or laid out, and what that cost."""

    path: Path  # the folder, or the file if it was one
    methods: dict[Method, int] = field(default_factory=dict)  # files per method
    extra_bytes: int = 0  # newly used by file contents

    def summary(self) -> str:
        """As people read it: "3 adopted, 1 copy"."""
        return ", ".join(f"{count} {method}" for method, count in self.methods.items() if count)


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """One object as it stands."""

    object: Digest
    size: int  # bytes of the file
    sha256: bytes  # recomputed if complete, else a claim
    chunk_count: int
    held_chunks: int  # written, durable or not
    held_bytes: int
    state: ObjectState
    path: Path | None  # the file that holds it; None: it lies in a pack


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Something that was held and is not any more: tell the user, take back what was announced."""

    object: Digest
    path: Path
    reason: str  # one sentence for people
    pages: tuple[
        tuple[Digest, tuple[int, ...]], ...
    ]  # entries (page, indexes) no longer held; no indexes: all of it
    is_damage: bool = False  # the disk's doing, not the user's
    is_touched: bool = False  # of size and time as it was: `reread` says what it is now


@dataclass(frozen=True, slots=True)
class Release:
    """A manifest that is kept, and why."""

    manifest: Digest
    name: str = ""  # "<publisher id>/<name>@<version>", or "" for a bare content id
    origin: str = "fetched"  # or "published"
    path: Path | None = None  # the folder its files lie in for people; None: none yet
    method: str = ""  # Placement.summary() of that folder
    added_s: float = 0.0  # seconds since 1970
    is_pinned: bool = False


class SpanReader(Protocol):
    """The chunks of one span, read in any order, verified each time. For one thread at a time."""

    @property
    def lengths(self) -> array[int]:
        """Bytes of each chunk of the span, type code "I"."""

    def read(self, first: int, stop: int, into: memoryview) -> None:
        """Fill `into` with exactly the chunks [first, stop), one after another.

        into: writable, as many bytes as those chunks have. Its content means nothing if this
        raises.
        Raises NotHeld if one of them is not held any more; CorruptChunk if the disk gave other
        bytes than were written: the chunk was cleared, its bytes set aside, and it is missing from
        now on.
        """


class SpanWriter(Protocol):
    """The chunks of one span, written in any order, verified before. For one thread at a time."""

    @property
    def lengths(self) -> array[int]:
        """Bytes of each chunk of the span, type code "I"."""

    def write(self, first: int, stop: int, data: memoryview) -> None:
        """Verify the chunks [first, stop) in `data`, one after another, and hand them to the disk.

        Chunks that are held already are verified too and not written again.
        Raises WrongChunk (facts: index, the number in the span; page; entry) at the first chunk
        that does not match:
        those before it are kept, it and those after it are not. `data` is not referred to
        afterwards.
        """


class Layout(Protocol):
    """Files on their way to a folder of people's; see `Store.lay_out`."""

    def advance(self, size_max: int) -> int:
        """Write about `size_max` bytes more of durable small files where only `place` finds them;
        how many. 0: nothing to do now. If it raises, what was written goes."""

    def place(self) -> Placement:
        """As `Store.materialize` or `Store.place_files`; it is over, also if it raises."""

    def discard(self) -> None:
        """Nothing is to be placed: remove what was written. Nothing if it is over."""


class Store(Protocol):
    """The door to the disk."""

    # ---- single chunks and documents -------------------------------------------------------------

    def has(self, digest: Digest) -> bool:
        """Whether `get` would find it: a document, a file of one chunk, or a chunk of any object
        that is large or sampled."""

    def get(self, digest: Digest) -> bytes:
        """The bytes of one chunk, verified now.

        Raises NotHeld, CorruptChunk. The empty chunk is always held.
        """

    def put(self, chunks: Sequence[bytes]) -> list[Digest]:
        """Keep documents or small chunks, each at most 1 MiB; durable on return.

        Their names, in order.

        Raises TooLarge.
        """

    # ---- pages -----------------------------------------------------------------------------------

    def file_page(self, page: Digest) -> FilePage:
        """A file page, decoded; what it lists need not be decoded again when it is asked about.

        Raises NotHeld, CorruptChunk, MalformedDocument, HostilePath.
        """

    def held(self, page: Digest) -> bytes | None:
        """Which entries of a page are durable here: bit i is bit 7 - i % 8 of byte i // 8, unused
        bits are 0.

        page: a manifest root, file page, object record or segment. None: the page itself is not
        held.
        Raises MalformedDocument if those bytes are held and are no page.
        """

    def missing(self, page: Digest) -> array[int]:
        """Indexes (type code "I", rising) of a page's entries that are neither durable nor written:
        what to ask for.

        Raises NotHeld if the page itself is not held, MalformedDocument if it is no page.
        """

    def span_reader(self, runs: Sequence[Run]) -> SpanReader:
        """The chunks of `runs` in order, for an upload or a local reader.

        Raises NotHeld if a page or any of its chunks in the runs is not held, or if a run is beyond
        its page.
        """

    def span_writer(self, runs: Sequence[Run]) -> SpanWriter:
        """A place for the chunks of `runs` in order.

        Pages must be held. Chunks listed by a segment go into every open part with that segment
        (`open_part` first); chunks listed by another page go into packs. A file page does not state
        the length of an object record: fetch those by digest and `put` them.
        Raises NotHeld where a page, a length or a part is lacking.
        """

    # ---- objects ---------------------------------------------------------------------------------

    def open_part(self, object: Digest, *, folder: Path | None = None) -> None:
        """Make room for an object of more than one chunk whose record is held.

        Its segments may come later.

        folder: the result's folder (`fetch -o`): the part lies in it, hidden, so that no byte is
        ever written twice. Without it the part lies in the store. Does nothing if a part is open or
        the object is complete; resumes where a part was left. Raises NotHeld (record), StoreFull
        before anything was written.
        """

    def reuse(self, object: Digest) -> int:
        """Fill an open part from what other objects hold here, by the sparse chunk index; durable
        on return.

        Segments not held yet are passed over. Returns the bytes of file content that were found.
        """

    def checkpoint_due(self, now: float) -> bool:
        """Whether CHECKPOINT_BYTES or CHECKPOINT_S (by the caller's clock, seconds) ask for a
        `checkpoint` now. Cheap."""

    def checkpoint(self) -> list[tuple[Digest, array[int]]]:
        """Make all that was written durable; what became so, as (page, indexes of type code "I").

        Data is synced first, then the index in one transaction. Raises StoreFull or StoreFailed if
        a sync fails: what was written since the last checkpoint to that file is missing again and
        will be asked for again.
        """

    def hash_ahead(self, object: Digest, size_max: int) -> int:
        """Hash up to about `size_max` bytes more of an open part, as far as it is written without a
        gap from its start; how many. What is hashed now, `finish` need not read again. 0: nothing
        to do now.
        """

    def finish(self, object: Digest, *, place: Place | None = None) -> Placement:
        """Turn a part with all its chunks into a whole file: recompute the SHA-256, sync, rename.

        place: the file's final place. It is the user's from then on and used where it lies
        (Method.ADOPTED); an equal file that is there already is accepted. Without it the file goes
        to the store's own data, read-only.
        A complete object is laid out at `place` as by `place_files`. A file of one chunk that is
        held is whole from then on. Raises NotHeld if chunks are
        missing, DigestMismatch (the manifest is at fault; facts: object, sha256, got): its chunks
        stay readable, it is never complete; CorruptChunk if the disk lost bytes: ask again for what
        is missing; DestinationExists.
        """

    def status(self, object: Digest) -> ObjectStatus | None:
        """One object as it stands; None if nothing is known of it.

        A file of one chunk is known when its chunk is held.
        """

    def held_among(self, files: Sequence[FileRecord]) -> tuple[set[Digest], set[Digest]]:
        """Of the contents of `files`: those that are complete, and beside them those of one chunk
        whose chunk is held. As the index says: no byte of theirs is read.
        """

    @property
    def losses_count(self) -> int:
        """Goes up whenever something that was complete may be so no longer."""

    def objects(self, *, size_min: int = 0) -> Iterator[ObjectStatus]:
        """Every object of more than one chunk and of `size_min` bytes or more."""

    def object_by_sha256(self, sha256: bytes) -> Digest | None:
        """The complete object with this SHA-256, if there is one.

        Files of one chunk count too once they were taken or placed.
        """

    def discard_part(self, object: Digest) -> None:
        """Forget what is held of an object that is not complete, and its file, if there is any."""

    # ---- the user's files ------------------------------------------------------------------------

    def take(self, files: Sequence[SourceFile], documents: Iterable[bytes] = ()) -> Placement:
        """Hold files that were just read and hashed by `ingest`: by reflink where the file system
        can, else in place.

        documents: object records, segments, file pages and the manifest root, unless `put` before.
        All is durable on return. An object that is held already costs nothing. Raises FileChanged
        if a file is not as its stamp says.
        """

    def withdrawn(self) -> list[Withdrawn]:
        """What was found changed or corrupt since the last call; each thing once."""

    def recheck(self, count_max: int | None = None) -> int:
        """Compare adopted files with their stamps, by stat alone; how many were found changed.

        count_max: only so many, going on where the last such call stopped, which takes a few
        milliseconds a thousand. None: every one; for starts and timers.
        """

    def reread(self, size_max: int, now_s: float) -> Reread:
        """Read up to about `size_max` bytes of adopted files that are not held any more and, but
        for the time of change, are as they were recorded; whose SHA-256 is right is held again.

        now_s: seconds since 1970. One that was touched this very second waits for the next round.
        """

    # ---- trees for people ------------------------------------------------------------------------

    def materialize(self, files: Sequence[FileRecord], destination: Path) -> Placement:
        """A read-only tree of complete files at `destination`, which appears whole or not at all.

        Reflink, else hardlink to the store's own data, else copy. A tree of the same files that is
        there already is accepted. Raises DestinationExists if anything else is there, NotHeld if a
        file is not complete.
        """

    def place_files(
        self, files: Sequence[FileRecord], folder: Path, *, links: Links = Links.NONE
    ) -> Placement:
        """The user's own copies of complete files in `folder` (`fetch -o`), which may exist.

        links: what may be a hard link instead of a copy. Whoever writes to one changes what the
        store holds: it finds out, and holds it no more.

        Files that `finish` placed there stay as they are; the others are made by reflink or copy,
        small ones are then used in place. Nothing is overwritten: an equal file is accepted,
        another one raises DestinationExists before any is written.
        """

    def lay_out(
        self, files: Sequence[FileRecord], folder: Path, *, is_tree: bool = False
    ) -> Layout:
        """What `place_files`, or `materialize` if `is_tree`, does when all files are complete, to
        be begun while they arrive. Writes nothing yet."""

    def conflicts(self, files: Sequence[FileRecord], folder: Path) -> list[str]:
        """Paths of `files` that exist in `folder` with other content: ask before a fetch begins."""

    # ---- what is kept ----------------------------------------------------------------------------

    def add_release(self, release: Release) -> None:
        """Keep a manifest and all it names; replaces the row of the same manifest and name.

        Durable on return.
        """

    def remove_release(self, manifest: Digest, name: str | None = None) -> bool:
        """Keep it no longer under `name` (None: under any).

        Whether there was such a row. Frees nothing by itself.
        """

    def releases(self) -> list[Release]:
        """All that is kept, newest first."""

    def pin(self, manifest: Digest, pinned: bool) -> bool:
        """Set or clear the pin on every row of a manifest. Whether there was one."""

    def lease(self, manifest: Digest, owner: str, until_s: float) -> None:
        """Protect what a manifest names from collection until `until_s` (seconds since 1970; 0:
        ends the lease)."""

    def leases(self, now_s: float) -> list[tuple[Digest, str, float]]:
        """Leases (manifest, owner, until_s) that have not run out."""

    def keeping(self, root: Digest | None = None) -> AbstractContextManager[None]:
        """While the block runs, no collection takes what `root` names, or, without a root, what is
        put or taken meanwhile by anybody. For this process alone: a lease outlives it.
        """

    def collect(
        self, now_s: float, *, is_dry_run: bool = False, part_idle_s: float = PART_IDLE_S
    ) -> Collected:
        """Free what no release and no lease names, and nobody reads or writes now.

        now_s: seconds since 1970. Users' own files are forgotten and stay where they are; a part
        that was opened or written to in the last `part_idle_s` seconds stays. is_dry_run: only
        say what would go. Raises CorruptChunk, and takes nothing, where the file list of a release
        can't be read.
        """

    def scrub(self, since_s: float, now_s: float) -> Scrubbed:
        """Read one segment or pack again, of what was read longest ago, and not since `since_s`.

        since_s, now_s: seconds since 1970. Goes on where it stopped, also after a restart. What is
        wrong is cleared, set aside and told by `withdrawn`. For one thread at a time.
        """

    def check(self, *, is_repair: bool) -> list[Inconsistency]:
        """Compare index, files, packs and journal with each other, without reading contents (see
        `scrub`), and what kept releases need with what is held.

        is_repair: make again what can be made again from what is here. At most
        INCONSISTENCIES_MAX are told. Blocks others from writing now and then.
        """

    def damaged(self) -> list[Digest]:
        """Objects, small files and documents that were damaged on this disk, or that it lost, and
        that are not whole again.
        """

    # ---- itself ----------------------------------------------------------------------------------

    def usage(self) -> StoreUsage:
        """What the store uses now."""

    def close(self) -> None:
        """Checkpoint and let go of every file. Calls that come later raise StoreFailed."""
