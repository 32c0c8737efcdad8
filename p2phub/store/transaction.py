"""Changes to the index that happen together or not at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from p2phub.digest import Digest
from p2phub.store.base import Release
from p2phub.store.packs import Location
from p2phub.store.rows import ObjectRow, SegmentRow, from_path, places, sample_key


class Transaction:
    """Changes that happen together or not at all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.is_loss = False  # something that was complete may be so no longer
        self.is_of_kept = False  # releases that are kept are others now

    def add_chunks(self, chunks: Iterable[tuple[Digest, Location]], ends: dict[int, int]) -> None:
        run = self._connection.executemany
        run(
            "INSERT INTO pack VALUES(?, ?)"
            " ON CONFLICT(number) DO UPDATE SET size = max(size, excluded.size)",
            ends.items(),
        )
        run("INSERT OR IGNORE INTO chunk VALUES(?, ?, ?, ?)", ((name, *at) for name, at in chunks))

    def drop_chunks(self, names: Iterable[Digest]) -> None:
        rows = [(name,) for name in names]
        self.is_loss = True
        self._connection.executemany("DELETE FROM chunk WHERE digest = ?", rows)
        self._connection.executemany("DELETE FROM small_file WHERE digest = ?", rows)

    def move_chunks(self, moves: Iterable[tuple[Digest, Location, Location]]) -> None:
        """(name, from, to) of chunks that now lie in another pack as well."""
        self._connection.executemany(
            "UPDATE chunk SET pack = ?, offset = ? WHERE digest = ? AND pack = ? AND offset = ?",
            ((to.pack, to.offset, name, old.pack, old.offset) for name, old, to in moves),
        )

    def put_verified(self, object: int, next_segment: int, verified_s: float) -> None:
        """An object was read again up to a segment; 0: whole. It counts as verified when its first
        segment was read: what went bad since then is found by the next round only.
        """
        self._connection.execute(
            "INSERT INTO verified SELECT id, ?, ? FROM object WHERE id = ?"
            " ON CONFLICT(object) DO UPDATE SET next_segment = excluded.next_segment, verified_s ="
            " CASE WHEN next_segment THEN verified_s ELSE excluded.verified_s END",
            (next_segment, verified_s, object),
        )

    def put_verified_pack(self, number: int, verified_s: float) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO verified_pack SELECT number, ? FROM pack WHERE number = ?",
            (verified_s, number),
        )

    def note_damaged(self, names: Iterable[Digest]) -> None:
        """What the disk damaged stays known until it is whole again."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO damaged VALUES(?)", ((name,) for name in names)
        )

    def forget_damaged(self, names: Iterable[Digest]) -> None:
        self._connection.executemany(
            "DELETE FROM damaged WHERE digest = ?", ((name,) for name in names)
        )

    def drop_pack(self, number: int) -> None:
        self._connection.execute("DELETE FROM pack WHERE number = ?", (number,))

    def doom(self, paths: Iterable[Path]) -> None:
        """Files that no row names any more: they are unlinked next, by the next start if need
        be.
        """
        self._connection.executemany(
            "INSERT OR IGNORE INTO doomed VALUES(?)", ((os.fsencode(path),) for path in paths)
        )

    def undoom(self, paths: Iterable[Path]) -> None:
        self._connection.executemany(
            "DELETE FROM doomed WHERE path = ?", ((os.fsencode(path),) for path in paths)
        )

    def add_object(self, row: ObjectRow, segments: Sequence[SegmentRow]) -> int:
        """The row's id; any older row of that digest goes, with its bits and samples."""
        self.is_loss = True
        self._connection.execute("DELETE FROM object WHERE digest = ?", (row.digest,))
        cursor = self._connection.execute(
            "INSERT INTO object("
            "digest, size, sha256, chunk_count, state, kind, path, target, stamp)"
            " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row.digest, row.size, row.sha256, row.chunk_count, row.state, row.kind, *places(row)),
        )
        id = cursor.lastrowid
        assert id is not None
        self._connection.executemany(
            "INSERT INTO segment VALUES(?, ?, ?, ?, ?, ?, ?)",
            (
                (id, s.number, s.digest, s.first_chunk, s.offset, s.chunk_count, s.data_size)
                for s in segments
            ),
        )
        return id

    def change_object(self, row: ObjectRow) -> None:
        self.is_loss = True
        self._connection.execute(
            "UPDATE object SET state = ?, kind = ?, path = ?, target = ?, stamp = ? WHERE id = ?",
            (row.state, row.kind, *places(row), row.id),
        )

    def drop_object(self, id: int) -> None:
        self.is_loss = True
        self._connection.execute("DELETE FROM object WHERE id = ?", (id,))

    def put_bits(self, object: int, rows: Iterable[tuple[int, bytes | bytearray]]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO bits VALUES(?, ?, ?)",
            ((object, number, bytes(bits)) for number, bits in rows),
        )

    def drop_bits(self, object: int) -> None:
        self._connection.execute("DELETE FROM bits WHERE object = ?", (object,))

    def add_samples(self, object: int, chunks: Iterable[tuple[Digest, int]]) -> None:
        """chunks: (digest, number within the object)."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO sample VALUES(?, ?, ?)",
            ((sample_key(name), object, number) for name, number in chunks),
        )

    def drop_samples(self, object: int) -> None:
        self._connection.execute("DELETE FROM sample WHERE object = ?", (object,))

    def add_small_files(self, files: Iterable[tuple[bytes, Digest]]) -> None:
        """(SHA-256, recomputed here, and name) of chunks in packs that are whole files."""
        self._connection.executemany("INSERT OR IGNORE INTO small_file VALUES(?, ?)", files)

    def put_release(self, release: Release) -> None:
        self.is_of_kept = True
        self._connection.execute(
            "INSERT OR REPLACE INTO release VALUES(?, ?, ?, ?, ?, ?, ?)",
            (
                release.manifest,
                release.name,
                release.origin,
                from_path(release.path),
                release.method,
                release.added_s,
                release.is_pinned,
            ),
        )

    def drop_release(self, manifest: Digest, name: str | None) -> int:
        self.is_of_kept = True
        where, values = ("manifest = ?", (manifest,)) if name is None else (
            "manifest = ? AND name = ?", (manifest, name))  # fmt: skip
        statement = f"DELETE FROM release WHERE {where}"  # noqa: S608
        return self._connection.execute(statement, values).rowcount

    def pin(self, manifest: Digest, pinned: bool) -> int:
        self.is_of_kept = True
        statement = "UPDATE release SET is_pinned = ? WHERE manifest = ?"
        return self._connection.execute(statement, (pinned, manifest)).rowcount

    def put_lease(self, manifest: Digest, owner: str, until_s: float) -> None:
        run = self._connection.execute
        if until_s:
            run("INSERT OR REPLACE INTO lease VALUES(?, ?, ?)", (manifest, owner, until_s))
        else:
            run("DELETE FROM lease WHERE manifest = ? AND owner = ?", (manifest, owner))

    def drop_leases(self, now_s: float) -> None:
        """Those that have run out."""
        self._connection.execute("DELETE FROM lease WHERE until_s <= ?", (now_s,))
