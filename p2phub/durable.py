"""Files that are there whole, or not at all, after a power cut.

A rename without fsync has been seen to leave an empty file under the final name. So: temporary
file, fsync, rename, fsync of the folder, and only then is anybody told. Where the disk refuses,
StoreFull or StoreFailed is raised.

Source: measured power cuts on ext4 and XFS; `rename(2)`, `fsync(2)`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from p2phub.errors import StoreError, StoreFailed, StoreFull

try:
    import fcntl
except ImportError:  # pragma: no cover
    # There is no flock on Windows: one daemon and one command at a time there.
    fcntl = None  # type: ignore[assignment]

_TRIAL_BYTES = 1 << 20  # more than the index and a journal line need
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def failure(error: OSError, path: str | Path) -> StoreError:
    """What the disk said, as our error: StoreFull where room is lacking, StoreFailed otherwise."""
    facts: dict[str, object] = {"path": str(path), "errno": error.errno}
    reason = error.strerror or type(error).__name__
    if error.errno in _NO_ROOM:
        return StoreFull(
            f"no room at {path}: {reason}. Nothing was lost: free some space; the same command"
            " resumes",
            **facts,
        )
    return StoreFailed(
        f"the disk refused at {path}: {reason}. What is held is untouched; check the disk", **facts
    )


@contextlib.contextmanager
def failures(path: str | Path) -> Iterator[None]:
    """An OSError inside the block leaves it as StoreFull or StoreFailed."""
    try:
        yield
    except OSError as error:
        raise failure(error, path) from error


class Room(NamedTuple):
    """Room on one disk."""

    folder: Path  # that is there: the one asked about, or the nearest above it
    free: int  # bytes, for us
    total: int  # bytes of the whole disk


def room_at(folder: Path) -> Room:
    """Raises StoreFailed where the disk does not say."""
    with failures(folder):
        while not folder.exists():
            folder = folder.parent
        disk = shutil.disk_usage(folder)
    return Room(folder, disk.free, disk.total)


def check_writable(folder: Path) -> None:
    """Raises StoreFull or StoreFailed where the disk below `folder` takes no new file now."""
    with failures(folder):
        descriptor, path = tempfile.mkstemp(dir=folder, prefix=".writing-")
        try:
            os.unlink(path)
            os.write(descriptor, bytes(_TRIAL_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path`, in place of what is there; a power cut after it cannot undo it.

    Readers see the old file or the new one, never a part.
    """
    with failures(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with failures(path):
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what is told
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names created in, or removed from, `folder` durable."""
    with failures(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Create `folder` and its missing parents, durably."""
    with failures(folder):
        if folder.is_dir():
            return
    make_folder(folder.parent)
    with failures(folder), contextlib.suppress(FileExistsError):
        folder.mkdir(mode=mode)
    sync_folder(folder.parent)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path` in the block; waits while another process holds it."""
    with failures(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
