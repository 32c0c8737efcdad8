"""Comparing users' files that are used in place with their stamps, by stat alone."""

from __future__ import annotations

import os
from threading import Lock

from p2phub.store.holdings import Holdings
from p2phub.store.stamps import FileStamp, difference

FILES_AT_ONCE = 1024  # whose rows are in memory


class Rechecking:
    """Looks at the adopted files of one store."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._lock = Lock()
        self._looked_id = 0  # of the last object that a bounded look saw

    def look(self, count_max: int | None) -> int:
        """See `Store.recheck`."""
        with self._lock:
            if count_max is not None:
                self._looked_id, changed = self._look(self._looked_id, count_max)
                return changed
            id, changed = self._look(0, FILES_AT_ONCE)
            while id:
                id, more = self._look(id, FILES_AT_ONCE)
                changed += more
            return changed

    def _look(self, after: int, count: int) -> tuple[int, int]:
        """Look at the next `count` adopted files; the id of the last one, 0 at the end of them
        all, and how many were changed.
        """
        rows, changed = self._holdings.index.adopted_after(after, count), 0
        for id, path, stamp in rows:
            try:
                now = FileStamp.of(os.lstat(path))
                reason = difference(now, stamp) if stamp is not None else "was edited"
            except FileNotFoundError:
                reason = "was removed"
            except OSError:
                continue  # a disk that is away for a moment is not a file that changed
            object = self._holdings.objects.get(id) if reason else None
            if object is None or object.namings:
                continue
            if object.row.path == path and object.row.stamp == stamp:
                self._holdings.withdraw(object, reason)
                changed += 1
        return rows[-1][0] if len(rows) == count else 0, changed
