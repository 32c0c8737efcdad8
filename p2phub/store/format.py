"""The format of a store on the disk: which folder may be opened as one, and which is refused
unchanged.

A store made by a newer p2phub, a version file that is none and a network file system are refused
before anything is written. An index that is damaged is set aside, to be made again.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from p2phub.errors import StoreFailed, StoreNewer
from p2phub.paths import MOUNTS, StoreFolder
from p2phub.store.file_system import FileSystem, failures, network_file_system
from p2phub.store.index import Index

STORE_VERSION = 1
_VERSION_TEXT = "p2phub store "


def prepare(files: FileSystem, folder: StoreFolder) -> bool:
    """Refuse what can't be used, else make the folders; whether the store is new.

    Nothing is changed before the version was read. Raises StoreNewer, StoreFailed.
    """
    is_new = _is_new(folder)
    _refuse_network(folder)
    for path in (folder.root, folder.parts, folder.data, folder.packs, folder.quarantine):
        files.make_folder(path)
    with failures(folder.scratch):
        if folder.scratch.exists():
            shutil.rmtree(folder.scratch)
    files.make_folder(folder.scratch)
    if is_new:
        file = files.open(folder.version, os.O_WRONLY | os.O_CREAT)
        try:
            files.write(file, [f"{_VERSION_TEXT}{STORE_VERSION}\n".encode()], 0, folder.version)
            files.sync(file, folder.version)
        finally:
            files.close(file)
        files.sync_folder(folder.root)
    return is_new


def open_index(files: FileSystem, folder: StoreFolder) -> tuple[Index, bool]:
    """The index, and whether it is empty because there was none, or it was damaged or never made
    whole, and so was set aside.
    """
    with failures(folder.index):
        is_empty = not folder.index.exists() or folder.rebuilding.exists()
    if not is_empty:
        try:
            return Index(folder.index, files), False
        except StoreFailed as error:
            if error.facts.get("reason") not in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
                raise
    # First, and durable: a half that a crash leaves must not be taken for the whole.
    files.close(files.open(folder.rebuilding, os.O_WRONLY | os.O_CREAT))
    files.sync_folder(folder.root)
    stem = f"{folder.index.name}-{time.time_ns()}"
    for suffix in ("", "-wal", "-shm"):
        path = folder.index.with_name(folder.index.name + suffix)
        if os.path.lexists(path):
            files.rename(path, folder.quarantine / (stem + suffix))
    return Index(folder.index, files), True


def end_rebuild(files: FileSystem, folder: StoreFolder) -> None:
    """Every row is committed: from now on the index counts."""
    files.remove(folder.rebuilding)
    files.sync_folder(folder.root)


def _is_new(folder: StoreFolder) -> bool:
    """Whether no version stands there yet. Raises StoreNewer, StoreFailed for one not known."""
    try:
        text = folder.version.read_text("utf-8", "replace")
    except FileNotFoundError:
        return True
    except OSError as error:
        raise StoreFailed(
            f"{folder.version} can't be read: {error.strerror}", path=str(folder.root)
        ) from error
    if not text:
        return True
    number = text.removeprefix(_VERSION_TEXT).strip()
    if not text.startswith(_VERSION_TEXT) or not number.isdecimal():
        raise StoreFailed(f"{folder.version} is not a version of a store", path=str(folder.version))
    if int(number) > STORE_VERSION:
        raise StoreNewer(
            f"the store at {folder.root} has format {number}, this p2phub knows"
            f" {STORE_VERSION}: it was left as it is; upgrade p2phub",
            path=str(folder.root), version=int(number),
        )  # fmt: skip
    return False


def _refuse_network(folder: StoreFolder) -> None:
    try:
        mounts = MOUNTS.read_text("utf-8", "surrogateescape")
    except OSError:
        mounts = ""  # no such system: SQLite itself refuses WAL where it can't be
    kind = network_file_system(Path(os.path.realpath(folder.root)), mounts)
    if kind is not None:
        raise StoreFailed(
            f"the store can't lie on a network file system ({kind}), as"
            f" {folder.root} does: its index would be damaged. Choose a home on a local disk;"
            " files may be published from anywhere",
            path=str(folder.root), type=kind,
        )  # fmt: skip
