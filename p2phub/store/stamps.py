"""By what a file of the user's is recognised as unchanged, and what is said of it if it is not."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

TOUCHED = "was touched"  # of size and time as it was: reading it tells


@dataclass(frozen=True, slots=True)
class FileStamp:
    """By what a file is recognised as unchanged: equal stamps, equal bytes.

    Disks get other numbers at a start or when they are plugged in again, so the device is no part
    of it: whatever disk is there now, an inode changed at that very nanosecond is the same one.
    """

    device: int = field(compare=False)
    inode: int
    size: int  # bytes
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """What `FileStamp` is made of again, in order."""
        return self.device, self.inode, self.size, self.modified_ns, self.changed_ns

    def is_touched_only(self, now: FileStamp) -> bool:
        """Whether `now` differs in the time of change alone, as after chmod, a new hard link or a
        move; or after an edit whose traces were wiped.
        """
        return replace(now, changed_ns=self.changed_ns) == self


def difference(now: FileStamp, stamp: FileStamp) -> str:
    """What is different about a file of the user's; "" if nothing is."""
    if now == stamp:
        return ""
    if stamp.is_touched_only(now):
        return TOUCHED
    return "was cut or extended" if now.size != stamp.size else "was edited"
