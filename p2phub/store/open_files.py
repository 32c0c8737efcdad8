"""Files open for reading, few at a time: the least recently used closes when nobody reads it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K")

FILES_MAX = 128  # descriptors kept for reading: a fraction of the usual limit of 1,024


class _OpenFile:
    __slots__ = ("file", "is_dropped", "users")

    def __init__(self, file: int) -> None:
        self.file = file
        self.users = 1
        self.is_dropped = False


class OpenFiles(Generic[K]):
    """Descriptors by key. A key names one file for ever: its replacement gets another."""

    def __init__(self, close: Callable[[int], None], files_max: int = FILES_MAX) -> None:
        self._close = close
        self._files_max = files_max
        self._entries: OrderedDict[K, _OpenFile] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def use(self, key: K, open: Callable[[], int]) -> Iterator[int]:
        """The descriptor of `key`, opened if need be, not closed while the block runs."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.users += 1
                self._entries.move_to_end(key)
        if entry is None:
            entry = self._insert(key, _OpenFile(open()))
        try:
            yield entry.file
        finally:
            with self._lock:
                entry.users -= 1
                is_last = entry.is_dropped and entry.users == 0
            if is_last:
                self._close(entry.file)

    def drop(self, key: K) -> None:
        """Close the file as soon as nobody uses it."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                entry.is_dropped = True
        if entry is not None and entry.users == 0:
            self._close(entry.file)

    def close(self) -> None:
        for key in list(self._entries):
            self.drop(key)

    def _insert(self, key: K, entry: _OpenFile) -> _OpenFile:
        closing = []
        with self._lock:
            other = self._entries.get(key)
            if other is not None:  # two threads opened it at once
                other.users += 1
                closing.append(entry)
                entry = other
            else:
                self._entries[key] = entry
                for name in list(self._entries):
                    if len(self._entries) <= self._files_max:
                        break
                    if self._entries[name].users == 0:
                        old = self._entries.pop(name)
                        old.is_dropped = True
                        closing.append(old)
        for old in closing:
            self._close(old.file)
        return entry
