"""Rows of the index as values, and the columns that they are kept in."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from p2phub.digest import Digest
from p2phub.store.base import ObjectState
from p2phub.store.stamps import FileStamp

OBJECT_COLUMNS = "id, digest, size, sha256, chunk_count, state, kind, path, target, stamp"
_STAMP = struct.Struct(">QQQqq")


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object as the index knows it."""

    id: int
    digest: Digest
    size: int
    sha256: bytes
    chunk_count: int
    state: ObjectState
    kind: str  # where its file is: "part", "data" or "adopted"
    path: Path | None  # None: where `StoreFolder` says for its kind
    target: Path | None  # where a finished part is being renamed to
    stamp: FileStamp | None  # of the file, once whole


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """Where one segment's chunks lie in an object's file."""

    number: int  # within the object
    digest: Digest
    first_chunk: int  # within the object
    offset: int  # bytes
    chunk_count: int
    data_size: int  # bytes


class SingleFile(NamedTuple):
    """Where a whole file of one chunk lies. Many of these are read at once."""

    path: str | None  # None: where `StoreFolder` says


def object_row(row: Sequence[Any]) -> ObjectRow:
    id, digest, size, sha256, chunk_count, state, kind, path, target, stamp = row
    return ObjectRow(
        id, digest, size, sha256, chunk_count, ObjectState(state), kind,
        to_path(path), to_path(target),
        to_stamp(stamp),
    )  # fmt: skip


def to_path(data: bytes | None) -> Path | None:
    return None if data is None else Path(os.fsdecode(data))


def to_stamp(data: bytes | None) -> FileStamp | None:
    return None if data is None else FileStamp(*_STAMP.unpack(data))


def places(row: ObjectRow) -> tuple[bytes | None, bytes | None, bytes | None]:
    """The columns path, target and stamp of an object."""
    stamp = _STAMP.pack(*row.stamp.numbers) if row.stamp else None
    return from_path(row.path), from_path(row.target), stamp


def from_path(path: Path | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


def sample_key(name: Digest) -> int:
    """Under which number a chunk stands in the chunk index: the first 8 bytes of its digest."""
    return int.from_bytes(name[:8], "big", signed=True)
