"""The trust floor: what this node has already seen signed, and so will never again take less than.

A database of its own, synced at every commit, and never rebuilt from anything: a floor that can be
made anew from what peers offer is no floor. If it is lost, names fail closed until a person says
`trust reset`; content ids go on working.

    floors    publisher, role -> highest version seen, digest of that statement, its keys
    clock     the latest time at which something was verified
    evidence  two statements of one role and version, both signed: its publisher is halted

A file beside the database (its witness) says that a floor once existed here.

Source: TUF specification 5.3 to 5.6 (rollback checks); SQLite WAL with synchronous=FULL lost none
of 20 commits in power cuts.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from p2phub.core.trust.freshness import trusted_time
from p2phub.durable import failures, make_folder, sync_folder, write_durably
from p2phub.errors import (
    EquivocationFound,
    FloorLost,
    RollbackRefused,
    StoreError,
    StoreFailed,
    StoreFull,
)
from p2phub.proto.limits import EVIDENCE_ROWS_MAX

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE floors (
    publisher TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL, payload_sha256 BLOB NOT
    NULL, authority BLOB NOT NULL, time_seen REAL NOT NULL, PRIMARY KEY (publisher, role)
) STRICT, WITHOUT ROWID; CREATE TABLE publishers (publisher TEXT PRIMARY KEY, first_seen REAL NOT
NULL) STRICT, WITHOUT ROWID; CREATE TABLE clock (only INTEGER PRIMARY KEY CHECK (only = 1),
time_seen REAL NOT NULL) STRICT; CREATE TABLE evidence (
    id INTEGER PRIMARY KEY, publisher TEXT NOT NULL, role TEXT NOT NULL, version INTEGER NOT NULL,
    first BLOB, second BLOB NOT NULL, time_seen REAL NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class SeenStatement:
    """One verified file, as the floor remembers it."""

    role: str
    version: int
    payload_sha256: bytes  # of the signed bytes
    authority: bytes  # digest of the keys and threshold it was verified under


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two statements under one version, both signed by the role's keys."""

    publisher_id: str
    role: str
    version: int
    first: bytes | None  # the file seen first; None if only its digest is left
    second: bytes
    time_seen: datetime


class Floor:
    """The floor database of one node. Thread-safe; one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open the floor at `path`; made there on the very first use only.

        Raises FloorLost from every method, not from here, when the file is gone or damaged: the
        node still starts, and serves content ids. Raises StoreFull or StoreFailed where the disk
        refuses now; what it says then is no word on the floor.
        """
        self._path = path
        self._witness = path.with_suffix(".witness")
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        make_folder(path.parent)
        with self._lock, contextlib.suppress(FloorLost), self._refusals():
            if not self._witness.exists() and self._is_unborn():
                self._create()
            else:
                self._open()

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def knows(self, publisher_id: str) -> bool:
        """Whether anything by this publisher was ever verified here, or its floor was reset."""
        with self._reading() as db:
            row = db.execute("SELECT 1 FROM publishers WHERE publisher = ?", (publisher_id,))
            return row.fetchone() is not None

    def introduce(self, publisher_id: str, now: datetime) -> None:
        """Remember that there shall be a floor, before a publisher's first file is kept."""
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO publishers VALUES (?, ?)", (publisher_id, now.timestamp())
            )

    def seen(self, publisher_id: str) -> dict[str, SeenStatement]:
        """The floor of each of a publisher's roles."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT role, version, payload_sha256, authority FROM floors WHERE publisher = ?",
                (publisher_id,),
            ).fetchall()
        return {row[0]: SeenStatement(*row) for row in rows}

    def time(self, now: datetime) -> datetime:
        """The time to judge expiry by. Raises ClockSetBack."""
        with self._reading() as db:
            row = db.execute("SELECT time_seen FROM clock").fetchone()
        last_seen = datetime.fromtimestamp(row[0], UTC) if row else None
        return trusted_time(now, last_seen)

    def time_of(self, publisher_id: str) -> datetime | None:
        """When this publisher's word was last verified, or its floor reset; None means never."""
        with self._reading() as db:
            row = db.execute(
                "SELECT max(time_seen) FROM (SELECT time_seen FROM floors WHERE publisher = ?1 "
                "UNION ALL SELECT first_seen FROM publishers WHERE publisher = ?1)",
                (publisher_id,),
            ).fetchone()
        return datetime.fromtimestamp(row[0], UTC) if row[0] is not None else None

    def raise_to(
        self, publisher_id: str, statements: Iterable[SeenStatement], now: datetime
    ) -> None:
        """Remember verified statements, in one durable transaction.

        Raises RollbackRefused, changing nothing, if one is below the floor. Under other keys than
        the floor's a role begins anew: that is how a publisher recovers from a thief who ran the
        version numbers up.
        Source: TUF specification 5.3.11, fast-forward attacks.
        """
        moment = now.timestamp()
        with self._writing() as db:
            for statement in statements:
                row = db.execute(
                    "SELECT version, authority FROM floors WHERE publisher = ? AND role = ?",
                    (publisher_id, statement.role),
                ).fetchone()
                if row and row[1] == statement.authority and row[0] > statement.version:
                    raise RollbackRefused(
                        f"{statement.role} version {statement.version} is older than version "
                        f"{row[0]}, already seen",
                        role=statement.role,
                        version=statement.version,
                        floor=row[0],
                    )
                db.execute(
                    "INSERT OR REPLACE INTO floors VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        publisher_id,
                        statement.role,
                        statement.version,
                        statement.payload_sha256,
                        statement.authority,
                        moment,
                    ),
                )
            db.execute("INSERT OR IGNORE INTO publishers VALUES (?, ?)", (publisher_id, moment))
            db.execute(
                "INSERT INTO clock VALUES (1, ?) "
                "ON CONFLICT (only) DO UPDATE SET time_seen = max(time_seen, excluded.time_seen)",
                (moment,),
            )

    def accuse(
        self,
        publisher_id: str,
        role: str,
        version: int,
        first: bytes | None,
        second: bytes,
        now: datetime,
    ) -> EquivocationFound:
        """Keep two statements of one version as evidence and halt; returns the error to raise."""
        with self._writing() as db:
            held = db.execute("SELECT count(*) FROM evidence").fetchone()[0]
            halted = db.execute("SELECT 1 FROM evidence WHERE publisher = ?", (publisher_id,))
            # Beyond the bound only the first proof against each publisher is kept: one is enough.
            if held < EVIDENCE_ROWS_MAX or halted.fetchone() is None:
                db.execute(
                    "INSERT INTO evidence (publisher, role, version, first, second, time_seen) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (publisher_id, role, version, first, second, now.timestamp()),
                )
        return _equivocation(publisher_id, role, version)

    def check_halted(self, publisher_id: str) -> None:
        """Raises EquivocationFound if there is evidence against this publisher."""
        found = self.evidence(publisher_id)
        if found:
            raise _equivocation(publisher_id, found[0].role, found[0].version)

    def evidence(self, publisher_id: str) -> list[Evidence]:
        """What is held against this publisher, the oldest first."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT publisher, role, version, first, second, time_seen FROM evidence "
                "WHERE publisher = ? ORDER BY id",
                (publisher_id,),
            ).fetchall()
        return [
            Evidence(whose, role, version, first, second, datetime.fromtimestamp(s, UTC))
            for whose, role, version, first, second, s in rows
        ]

    def reset(self, publisher_id: str, now: datetime) -> None:
        """Forget the floor of one publisher and what is held against it, because a person says so.

        What it signs next is taken as it was when it was first trusted. Replaces a lost database by
        a new one, in which every other publisher still fails closed until it is reset too; the
        clock is set by `now`.
        """
        with self._lock, self._refusals():
            if self._connection is None:
                self._create()
        with self._writing() as db:
            db.execute("DELETE FROM floors WHERE publisher = ?", (publisher_id,))
            db.execute("DELETE FROM evidence WHERE publisher = ?", (publisher_id,))
            db.execute(
                "INSERT OR REPLACE INTO publishers VALUES (?, ?)", (publisher_id, now.timestamp())
            )
            db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (now.timestamp(),))

    # ---- the database ---------------------------------------------------------------------------

    def _is_unborn(self) -> bool:
        """Whether no floor was ever completed here: no file, or one cut off without tables."""
        if not self._path.exists():
            return True
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            try:
                return bool(connection.execute("PRAGMA user_version").fetchone()[0] == 0)
            except sqlite3.DatabaseError:
                return False

    def _create(self) -> None:
        for suffix in ("", "-wal", "-shm"):  # SQLite's own names for what belongs to one database
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        connection = self._connect()
        try:
            connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
            # Only after the database is there may the witness say so; both are on disk before
            # anything is trusted.
            sync_folder(self._path.parent)
            write_durably(self._witness, b"a trust floor was made here\n", mode=0o600)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _open(self) -> None:
        if not self._path.exists():
            raise FloorLost(f"the trust floor {self._path} is gone", path=str(self._path))
        connection = self._connect()
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if (
                version != _SCHEMA_VERSION
                or connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok"
            ):
                raise sqlite3.DatabaseError(f"schema {version}")
            if not self._witness.exists():
                write_durably(self._witness, b"a trust floor was made here\n", mode=0o600)
        except (sqlite3.OperationalError, StoreError):
            connection.close()
            raise
        except sqlite3.DatabaseError as error:
            connection.close()
            raise FloorLost(
                f"the trust floor {self._path} is damaged", path=str(self._path)
            ) from error
        self._connection = connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.OperationalError:
            connection.close()
            raise
        except sqlite3.DatabaseError as error:
            connection.close()
            raise FloorLost(
                f"the trust floor {self._path} is damaged", path=str(self._path)
            ) from error
        return connection

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """While the database is opened or made: a disk that refuses says nothing about the floor,
        so that nobody is asked to give it up.
        """
        try:
            with failures(self._path):
                yield
        except sqlite3.DatabaseError as error:
            raise _unusable(error, self._path) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._connection is None:
                raise FloorLost(path=str(self._path))
            try:
                yield self._connection
            except sqlite3.OperationalError as error:
                raise _unusable(error, self._path) from error
            except sqlite3.DatabaseError as error:
                raise FloorLost(
                    f"the trust floor {self._path} cannot be read: {error}", path=str(self._path)
                ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise


def _unusable(error: sqlite3.DatabaseError, path: Path) -> StoreError:
    if getattr(error, "sqlite_errorname", "").startswith("SQLITE_FULL"):
        return StoreFull(f"no room for the trust floor {path}: free some space", path=str(path))
    return StoreFailed(f"the trust floor {path} cannot be used now: {error}", path=str(path))


def _equivocation(publisher_id: str, role: str, version: int) -> EquivocationFound:
    return EquivocationFound(
        f"the publisher signed two different things as {role} version {version}; its word no "
        "longer counts here. Content ids still work. Ask the publisher, then run "
        "`p2phub trust reset`",
        publisher_id=publisher_id,
        role=role,
        version=version,
    )
