"""Second names (hard links) of what the store holds: of its own files, and of the user's where they
asked for it.

A user's file is recognised by its stamp, and each new name, each move and each removal of one
changes the time of change in it. While that goes on the object says so, and is held; at the end
the new stamp is written down. A crash in between costs reading the file again: it looks touched.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from p2phub.store.base import Links, ObjectState
from p2phub.store.file_system import failures
from p2phub.store.holdings import Holdings
from p2phub.store.journal import Journal, adopted
from p2phub.store.objects import StoredObject
from p2phub.store.stamps import FileStamp


class SecondNames:
    """Gives files of one store second names, until `settle`."""

    def __init__(self, holdings: Holdings, journal: Journal, links: Links) -> None:
        self._holdings = holdings
        self._journal = journal
        self._links = links
        self._of_users: list[StoredObject] = []

    def are_for(self, object: StoredObject) -> bool:
        """Whether a whole object's file may have one."""
        return self._links is Links.ALL or (self._links is Links.OWN and object.row.kind == "data")

    def give(self, object: StoredObject, name: str, folder: int, where: Path) -> bool:
        """A second name at `where`, in the open `folder`. Raises StoreFailed.

        False, and there is none: the file system can't, or a user's file is not as it was.
        """
        files, path, stamp = self._holdings.files, self._holdings.path(object), object.row.stamp
        if object.row.kind == "data":
            return files.link(path, name, target_folder=folder)
        with object.lock:
            object.namings += 1
        self._of_users.append(object)
        now = _stamp_of(path)
        if stamp is None or now is None:
            return False
        is_as_it_was = now == stamp or (object.namings > 1 and stamp.is_touched_only(now))
        if not is_as_it_was or not files.link(path, name, target_folder=folder):
            return False
        with failures(where):
            linked = FileStamp.of(os.stat(name, dir_fd=folder, follow_symlinks=False))
        if not stamp.is_touched_only(linked):
            files.remove(where)
            return False
        return True

    def settle(self) -> None:
        """No name comes, moves or goes from now on: hold the users' files by their new stamps."""
        objects, self._of_users = self._of_users, []
        renamed = []
        for object in objects:
            with object.lock:
                stamp = object.row.stamp
                now = _stamp_of(self._holdings.path(object))
                is_held = object.row.state is not ObjectState.CHANGED
                if is_held and stamp and now and stamp != now and stamp.is_touched_only(now):
                    object.row = replace(object.row, stamp=now)
                    renamed.append(object.row)
                object.namings -= 1
        if not renamed:
            return
        self._journal.append(
            [adopted(row, row.path, row.stamp) for row in renamed if row.path and row.stamp]
        )
        with self._holdings.index.transaction() as change:
            for row in renamed:
                change.change_object(row)


def _stamp_of(path: Path) -> FileStamp | None:
    try:
        return FileStamp.of(os.lstat(path))
    except OSError:
        return None
