"""The index: what is held and where, asked of its tables.

Rows are facts about durable bytes only: data is synced before a row says so. All of it can be made
again from the packs, the files and the journal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from p2phub.digest import Digest
from p2phub.store.base import Release
from p2phub.store.database import Database
from p2phub.store.file_system import FileSystem
from p2phub.store.packs import Location
from p2phub.store.rows import (
    OBJECT_COLUMNS,
    ObjectRow,
    SegmentRow,
    SingleFile,
    object_row,
    sample_key,
    to_path,
    to_stamp,
)
from p2phub.store.stamps import FileStamp
from p2phub.store.transaction import Transaction

VARIABLES_MAX = 500  # of one statement; SQLite's own bound was 999 for long
FAULTS_MAX = 16  # of the database that are told: one is enough to make it again
CANDIDATES_MAX = 16  # places of one chunk that are tried: zeros are in every file


class Index:
    """The index of one store."""

    def __init__(self, path: Path, files: FileSystem) -> None:
        """Raises StoreNewer, StoreFull, StoreFailed."""
        self._database = Database(path, files)
        self._rows = self._database.rows
        self.close = self._database.close
        self.losses_count = 0  # see `Store.losses_count`
        self._kept: tuple[Release, ...] | None = None  # None: to be read
        self._kept_changes = 0
        self._kept_lock = Lock()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Durable when the block is left without an exception; undone otherwise."""
        with self._database.exclusive:
            change = Transaction(self._database.writer)
            try:
                with self._database.transaction():
                    yield change
            finally:
                # After the commit: who reads the old rows before it must not remember them.
                self.losses_count += change.is_loss
                if change.is_of_kept:
                    with self._kept_lock:
                        self._kept_changes, self._kept = self._kept_changes + 1, None

    @property
    def exclusive(self) -> RLock:
        """While it is held, nobody else commits; transactions of the holder go on."""
        return self._database.exclusive

    # ---- chunks in packs

    def pack_ends(self) -> dict[int, int]:
        return dict(self._rows("SELECT number, size FROM pack"))

    def locate(self, name: Digest) -> Location | None:
        rows = self._rows("SELECT pack, offset, length FROM chunk WHERE digest = ?", (name,))
        return Location(*rows[0]) if rows else None

    def locations(self, names: Sequence[Digest]) -> dict[Digest, Location]:
        """Where those of `names` lie that are in packs."""
        statement = "SELECT digest, pack, offset, length FROM chunk WHERE digest IN"
        return {name: Location(*at) for name, *at in self._in_groups(statement, names)}

    def in_packs(self, names: Sequence[Digest]) -> set[Digest]:
        return self._among("SELECT digest FROM chunk WHERE digest IN", names)

    def chunks_after(self, name: bytes, count: int) -> list[tuple[Digest, Location]]:
        """The next chunks in packs, in order of their names."""
        statement = (
            "SELECT digest, pack, offset, length FROM chunk WHERE digest > ? ORDER BY digest"
            " LIMIT ?"
        )
        return [(name, Location(*at)) for name, *at in self._rows(statement, (name, count))]

    def chunks_in(self, pack: int) -> list[tuple[Digest, Location]]:
        """All chunks of one pack, in the order in which they lie."""
        statement = "SELECT digest, pack, offset, length FROM chunk WHERE pack = ? ORDER BY offset"
        return [(name, Location(*at)) for name, *at in self._rows(statement, (pack,))]

    def oldest_object(self, since_s: float) -> tuple[int, float, int] | None:
        """(id, when it was last read again, next segment) of the object to scrub now: one that was
        begun, else the longest unread; None if all were read since.
        """
        rows = self._rows(
            "SELECT id, coalesce(verified_s, 0), coalesce(next_segment, 0) AS next FROM object"
            " LEFT JOIN verified ON object = id WHERE state != 'changed'"
            " AND (coalesce(verified_s, 0) < ? OR next) ORDER BY next = 0, 2, id LIMIT 1",
            (since_s,),
        )
        return rows[0] if rows else None

    def oldest_pack(self, since_s: float) -> tuple[int, float] | None:
        """(number, when it was last read again) of the pack to scrub now."""
        rows = self._rows(
            "SELECT pack.number, coalesce(verified_s, 0) FROM pack LEFT JOIN verified_pack"
            " USING(number) WHERE size > 0 AND coalesce(verified_s, 0) < ? ORDER BY 2, 1 LIMIT 1",
            (since_s,),
        )
        return rows[0] if rows else None

    def damaged(self) -> list[Digest]:
        """What was damaged and may not be whole again yet."""
        return [name for (name,) in self._rows("SELECT digest FROM damaged ORDER BY digest")]

    def faults(self) -> list[str]:
        """What SQLite finds wrong with the database itself: it is read whole."""
        rows = [text for (text,) in self._rows(f"PRAGMA quick_check({FAULTS_MAX})")]
        return [] if rows == ["ok"] else rows

    def doomed(self) -> list[Path]:
        return [Path(os.fsdecode(path)) for (path,) in self._rows("SELECT path FROM doomed")]

    def pack_bytes(self) -> int:
        return int(self._rows("SELECT coalesce(sum(size), 0) FROM pack")[0][0])

    # ---- objects

    def object(self, id: int) -> ObjectRow | None:
        return self._object("id = ?", id)

    def object_named(self, name: Digest) -> ObjectRow | None:
        return self._object("digest = ?", name)

    def complete_with_sha256(self, sha256: bytes) -> ObjectRow | None:
        return self._object("sha256 = ? AND state = 'complete'", sha256)

    def small_with_sha256(self, sha256: bytes) -> Digest | None:
        """A file of one chunk that lies in a pack."""
        statement = (
            "SELECT digest FROM small_file JOIN chunk USING(digest) WHERE sha256 = ? LIMIT 1"
        )
        rows = self._rows(statement, (sha256,))
        return rows[0][0] if rows else None

    def sha256_of_small(self, name: Digest) -> bytes | None:
        rows = self._rows("SELECT sha256 FROM small_file WHERE digest = ? LIMIT 1", (name,))
        return rows[0][0] if rows else None

    def object_ids(self, where: str = "1", values: tuple[Any, ...] = ()) -> list[int]:
        """where: a condition of ours on the columns of `object`; never user input."""
        rows = self._rows(f"SELECT id FROM object WHERE {where} ORDER BY id", values)  # noqa: S608
        return [id for (id,) in rows]

    def adopted_after(
        self, id: int, count: int, *, is_changed: bool = False
    ) -> list[tuple[int, Path, FileStamp | None]]:
        """The next files of the user's that are used in place: (object id, path, stamp).

        is_changed: those that were, and are not any more.
        """
        rows = self._rows(
            "SELECT id, path, stamp FROM object WHERE id > ? AND kind = 'adopted'"
            " AND (state = 'changed') = ? AND path IS NOT NULL ORDER BY id LIMIT ?",
            (id, is_changed, count),
        )
        return [(id, Path(os.fsdecode(path)), to_stamp(stamp)) for id, path, stamp in rows]

    def complete_among(self, names: Sequence[Digest]) -> set[Digest]:
        """Which of `names` are complete files: objects, or chunks in packs of known SHA-256."""
        found: set[Digest] = set()
        for start in range(0, len(names), VARIABLES_MAX):
            some = set(names[start : start + VARIABLES_MAX])
            marks = ",".join("?" * len(some))
            statement = (
                "SELECT count(*) FROM object"  # noqa: S608
                f" WHERE state = 'complete' AND digest IN ({marks})"
            )
            # Each row costs two turns at the interpreter lock, which lanes want too: counted
            # first, since nearly always all are complete.
            ((count,),) = self._rows(statement, [*some])
            found |= some if count == len(some) else self._complete(some)
        return found

    def _complete(self, names: set[Digest]) -> set[Digest]:
        objects = "SELECT digest FROM object WHERE state = 'complete' AND digest IN"
        packed = "SELECT digest FROM small_file JOIN chunk USING(digest) WHERE digest IN"
        found = self._among(objects, [*names])
        return found | self._among(packed, [*(names - found)])

    def single_objects(self, names: Sequence[Digest]) -> set[Digest]:
        """Which of `names` are complete objects of one chunk."""
        statement = (
            "SELECT digest FROM object WHERE chunk_count = 1 AND state = 'complete' AND digest IN"
        )
        return self._among(statement, names)

    def single_files(self, names: Sequence[Digest]) -> dict[Digest, SingleFile]:
        """Those of `names` that are complete objects of one chunk."""
        statement = (
            "SELECT digest, path FROM object"
            " WHERE chunk_count = 1 AND state = 'complete' AND digest IN"
        )
        return {
            name: SingleFile(None if path is None else os.fsdecode(path))
            for name, path in self._in_groups(statement, names)
        }

    def segments_of(self, object: int) -> list[SegmentRow]:
        statement = (
            "SELECT number, digest, first_chunk, offset, chunk_count, data_size FROM segment"
            " WHERE object = ? ORDER BY number"
        )
        return [SegmentRow(*row) for row in self._rows(statement, (object,))]

    def with_segment(self, segment: Digest) -> list[tuple[int, int]]:
        """(object id, segment number) of all places of a segment."""
        return self._rows("SELECT object, number FROM segment WHERE digest = ?", (segment,))

    def bits_of(self, object: int) -> dict[int, bytes]:
        return dict(self._rows("SELECT number, bits FROM bits WHERE object = ?", (object,)))

    def samples(self, names: Sequence[Digest]) -> dict[int, list[tuple[int, int]]]:
        """Candidates by `sample_key`: (object id, chunk number).

        A key is 8 bytes of a digest: compare the whole one.
        """
        found: dict[int, list[tuple[int, int]]] = {}
        for start in range(0, len(names), VARIABLES_MAX):
            keys = [sample_key(name) for name in names[start : start + VARIABLES_MAX]]
            marks = ",".join("?" * len(keys))
            for key, object, chunk in self._rows(
                f"SELECT key, object, chunk FROM sample WHERE key IN ({marks})"  # noqa: S608
                f" LIMIT {len(keys) * CANDIDATES_MAX}",
                keys,
            ):
                found.setdefault(key, []).append((object, chunk))
        return found

    def files(self, kind: str) -> dict[Digest, tuple[Path | None, FileStamp | None]]:
        """Where the files of one kind lie, by object: those that are not known to have changed."""
        rows = self._rows(
            "SELECT digest, path, stamp FROM object WHERE kind = ? AND state != 'changed'", (kind,)
        )
        return {name: (to_path(path), to_stamp(stamp)) for name, path, stamp in rows}

    def sizes(self) -> dict[str, int]:
        """Bytes of files by kind."""
        statement = "SELECT kind, sum(size) FROM object WHERE state != 'changed' GROUP BY kind"
        return dict(self._rows(statement))

    # ---- what is kept

    def releases(self) -> tuple[Release, ...]:
        """From memory where nothing changed: each row costs two turns at the interpreter lock."""
        with self._kept_lock:
            kept, changes = self._kept, self._kept_changes
        if kept is not None:
            return kept
        kept = tuple(
            Release(manifest, name, origin, to_path(path), method, added_s, bool(pinned))
            for manifest, name, origin, path, method, added_s, pinned in self._rows(
                "SELECT manifest, name, origin, path, method, added_s, is_pinned FROM release"
                " ORDER BY added_s DESC, name"
            )
        )
        with self._kept_lock:
            if changes == self._kept_changes:
                self._kept = kept
        return kept

    def leases(self, now_s: float) -> list[tuple[Digest, str, float]]:
        return self._rows("SELECT manifest, owner, until_s FROM lease WHERE until_s > ?", (now_s,))

    # ---- within

    def _object(self, where: str, value: Any) -> ObjectRow | None:
        statement = f"SELECT {OBJECT_COLUMNS} FROM object WHERE {where} LIMIT 1"  # noqa: S608
        rows = self._rows(statement, (value,))
        return object_row(rows[0]) if rows else None

    def _among(self, statement: str, names: Sequence[Digest]) -> set[Digest]:
        return {name for (name,) in self._in_groups(statement, names)}

    def _in_groups(self, statement: str, names: Sequence[Digest]) -> Iterator[Any]:
        """The rows of a statement that ends in IN, for all `names`."""
        for start in range(0, len(names), VARIABLES_MAX):
            some = names[start : start + VARIABLES_MAX]
            marks = ",".join("?" * len(some))
            yield from self._rows(f"{statement} ({marks})", some)
