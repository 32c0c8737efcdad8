"""Whether what is held of a release is still right: every byte of it read again, and the folders
that it lies in for people compared with what it says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from p2phub.digest import Sha256
from p2phub.errors import CorruptChunk, DigestMismatch, NotHeld, P2phubError, ReleaseChanged
from p2phub.node.api import Fault
from p2phub.node.trees import record_of
from p2phub.proto.content import Segment
from p2phub.proto.limits import CHUNK_BYTES_MAX
from p2phub.proto.manifest import FileRecord
from p2phub.proto.messages import Run
from p2phub.store.base import ObjectState, Release, Store


def verify_file(
    store: Store, file: FileRecord, rows: Sequence[Release]
) -> tuple[int, Fault | None]:
    """Bytes that were read and compared, and what is wrong. rows: for what its release is kept."""
    checked_bytes, fault = _read(store, file)
    if fault is None:
        fault = _changed(store, file, rows, is_whole=checked_bytes == file.size)
    return checked_bytes, fault


def _read(store: Store, file: FileRecord) -> tuple[int, Fault | None]:
    if file.size == 0:
        return 0, None
    if not file.has_record:
        try:
            store.get(file.object)
        except NotHeld:
            return 0, None
        except CorruptChunk as error:
            return 0, Fault(path=file.path, reason=str(error), kind=error.kind)
        return file.size, None
    checked_bytes = 0
    whole = Sha256()
    is_whole = True
    try:
        record = record_of(store, file)
        buffer = memoryview(bytearray(CHUNK_BYTES_MAX))
        for reference in record.segments:
            lengths = Segment.decode(store.get(reference.digest)).lengths
            missing = set(store.missing(reference.digest))
            for index, size in enumerate(lengths):
                if index in missing:
                    is_whole = False
                    continue
                reader = store.span_reader((Run(reference.digest, index, index + 1),))
                reader.read(0, 1, buffer[:size])
                checked_bytes += size
                if is_whole:
                    whole.update(buffer[:size])
    except NotHeld:
        return checked_bytes, None
    except P2phubError as error:
        return checked_bytes, Fault(path=file.path, reason=str(error), kind=error.kind)
    if is_whole and whole.digest() != file.sha256:
        return checked_bytes, Fault(
            path=file.path,
            reason="its SHA-256 is not what the release states",
            kind=DigestMismatch.__name__,
        )
    return checked_bytes, None


def _changed(
    store: Store, file: FileRecord, rows: Sequence[Release], *, is_whole: bool
) -> Fault | None:
    """Whether a file was edited or removed where its release lies; what was never fetched was not.

    Where a published file lay is not known here: what was touched and not read again yet counts.
    """
    reason = ""
    folders = list(dict.fromkeys(row.path for row in rows if row.path is not None))
    for folder in folders:
        if store.conflicts([file], folder):
            reason = f"{folder / file.path} was edited"
    if not is_whole and not any(os.path.lexists(folder / file.path) for folder in folders):
        status = store.status(file.object)
        is_published = any(row.origin == "published" for row in rows)
        if is_published or (status is not None and status.state is ObjectState.CHANGED):
            reason = "it was edited, moved, removed or touched, and is not held now"
    if not reason:
        return None
    return Fault(path=file.path, reason=reason, kind=ReleaseChanged.__name__)
