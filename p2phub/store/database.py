"""One SQLite database: a connection that writes, a few that read. The one home of sqlite3.

WAL with synchronous=FULL: a commit that returned survives a power cut (20 of 20 cuts; with NORMAL 0
of 20). One writer at a time, readers beside it. What SQLite refuses is said in our own errors.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, RLock
from typing import Any

from p2phub.errors import StoreError, StoreFailed, StoreFull, StoreNewer
from p2phub.store.file_system import FileSystem, failure
from p2phub.store.schema import ADDITIONS, SCHEMA

INDEX_VERSION = 1
BUSY_TIMEOUT_MS = 10_000  # a commit waits for a slow disk, never for another program
READERS_MAX = 4  # idle connections kept; lane threads read from memory nearly always


class Database:
    """The database of one index."""

    def __init__(self, path: Path, files: FileSystem) -> None:
        """Raises StoreNewer, StoreFull, StoreFailed."""
        self._path = path
        self._files = files
        self._readers: deque[sqlite3.Connection] = deque()
        self._is_closed = False
        self._close_lock = Lock()
        # While it is held, nobody else commits; transactions of the holder go on.
        self.exclusive = RLock()
        with self._failures():
            self.writer = self._connect()
            try:
                self._prepare()
            except BaseException:
                self.writer.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What `writer` is told meanwhile is durable when the block is left without an exception;
        undone otherwise.
        """
        with self.exclusive, self._failures():
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._files.reach("commit", self._path)
                self.writer.execute("COMMIT")
            except BaseException:
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self.exclusive, self._close_lock:
            self._is_closed = True
            while self._readers:
                self._readers.pop().close()
            self.writer.close()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """What a statement finds, in what is committed."""
        with self._failures():
            try:
                connection = self._readers.pop()
            except IndexError:
                if self._is_closed:
                    raise StoreFailed("the store is closed") from None
                connection = self._connect()
            try:
                return connection.execute(statement, values).fetchall()
            finally:
                with self._close_lock:
                    if self._is_closed or len(self._readers) >= READERS_MAX:
                        connection.close()
                    else:
                        self._readers.append(connection)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_MS / 1000,
        )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _prepare(self) -> None:
        (version,) = self.writer.execute("PRAGMA user_version").fetchone()
        if version > INDEX_VERSION:
            raise StoreNewer(
                f"the index at {self._path} has format {version}, this p2phub knows"
                f" {INDEX_VERSION}:"
                " it was left as it is; upgrade p2phub",
                path=str(self._path),
            )
        (mode,) = self.writer.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreFailed(
                f"the file system at {self._path} can't hold the index: SQLite refused WAL there",
                path=str(self._path),
            )
        if version == 0:
            self.writer.executescript(
                f"BEGIN;{SCHEMA}PRAGMA user_version = {INDEX_VERSION};COMMIT;"
            )
        self.writer.executescript(ADDITIONS)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise failure(error, self._path) from error
        except sqlite3.Error as error:
            raise _sqlite_failure(error, self._path) from error


def _sqlite_failure(error: sqlite3.Error, path: Path) -> StoreError:
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    facts: dict[str, object] = {"path": str(path), "reason": name}
    if name.startswith("SQLITE_FULL"):
        return StoreFull(
            f"no room for the index at {path}: free some space, the same command resumes", **facts
        )
    if name in ("ProgrammingError",) and "closed" in str(error):
        return StoreFailed("the store is closed", **facts)
    if isinstance(
        error, (sqlite3.ProgrammingError, sqlite3.IntegrityError, sqlite3.InterfaceError)
    ):
        raise error  # a bug, not a disk
    if name.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return StoreFailed(
            f"the disk refused the index at {path} ({name}). What is held is untouched: check the"
            " disk; if it was taken out, start the daemon again once it is back",
            **facts,
        )
    return StoreFailed(
        f"the index at {path} can't be used ({name}: {error}). What is held is untouched:"
        " check the disk and start the daemon again; an index that is damaged it makes anew from"
        " the files",
        **facts,
    )
