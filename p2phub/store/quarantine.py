"""What was found wrong in a store, set aside for a look at what went wrong: bounded on the disk,
whatever ran before, and the oldest goes first.

Nothing here is ever read back, so a disk that refuses any of it is no news.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from threading import Lock

from p2phub.digest import Digest
from p2phub.errors import StoreError
from p2phub.paths import StoreFolder
from p2phub.store.file_system import FileSystem, listed

QUARANTINE_BYTES_MAX = 64 << 20  # the newest stays also where it is larger alone
QUARANTINE_FILES_MAX = 1000


class Quarantine:
    """The folder of one store."""

    def __init__(self, folder: StoreFolder, files: FileSystem) -> None:
        self._folder = folder
        self._files = files
        self._lock = Lock()
        self._sizes: dict[Path, int] = {}  # bytes of what is there; the oldest first
        self._bytes = 0
        self._number = 0  # of the newest chunk
        found = []
        for name in listed(folder.quarantine):
            text = name.rpartition("-")[2]
            is_ours = text.isascii() and text.isdecimal() and len(text) <= 9
            number = int(text) if is_ours else 0
            self._number = max(self._number, number)
            path = folder.quarantine / name
            try:
                status = os.lstat(path)
            except OSError:
                continue
            found.append((status.st_ctime_ns, number, status.st_size, path))
        for _, _, size, path in sorted(found):
            self._count(path, size)
        self._trim()

    def keep(self, name: Digest, chunk: int, data: memoryview | bytes) -> None:
        """Set the wrong bytes of a chunk aside. chunk: its number in the object `name`."""
        with self._lock:
            self._number += 1
            path = self._folder.quarantined(name, chunk, self._number)
        try:
            file = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                self._files.write(file, [data], 0, path)
            finally:
                self._files.close(file)
        except (StoreError, OSError):
            pass
        self._note(path)

    def take(self, path: Path) -> Path:
        """Move a file that nobody understands here; where it lies now. Raises StoreFailed."""
        aside = self._folder.quarantine / path.name
        self._files.rename(path, aside)
        self._note(aside)
        return aside

    def _note(self, path: Path) -> None:
        with self._lock:
            try:
                self._count(path, os.lstat(path).st_size)
            except OSError:
                return
            self._trim()

    def _count(self, path: Path, size: int) -> None:
        self._bytes += size - self._sizes.pop(path, 0)
        self._sizes[path] = size

    def _trim(self) -> None:
        while len(self._sizes) > 1 and (
            self._bytes > QUARANTINE_BYTES_MAX or len(self._sizes) > QUARANTINE_FILES_MAX
        ):
            oldest = next(iter(self._sizes))
            self._bytes -= self._sizes.pop(oldest)
            try:
                if stat.S_ISDIR(os.lstat(oldest).st_mode):
                    shutil.rmtree(oldest)
                else:
                    self._files.remove(oldest)
            except (StoreError, OSError):
                continue
