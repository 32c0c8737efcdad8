"""Store: this machine's disk."""

from __future__ import annotations

from p2phub.errors.base import P2phubError


class StoreError(P2phubError):
    """The store on this machine could not do what was asked. What it already holds is untouched."""

    exit_code = 50


class NotHeld(StoreError):
    """This node does not hold these bytes. Fetch them first."""

    exit_code = 51


class StoreFull(StoreError):
    """There is not enough room on the disk, or within store_max.

    Nothing was lost: free some space and run the same command again, it resumes. A fetch waits for
    room first, as long as --wait-for-room says.
    """

    exit_code = 52


class CorruptChunk(StoreError):
    """A chunk on this disk no longer matches its name.

    It was set aside and will be fetched again; check the disk.
    """

    exit_code = 53


class StoreNewer(StoreError):
    """The store was written by a newer p2phub. It was left as it is; upgrade p2phub to use it."""

    exit_code = 54


class StoreFailed(StoreError):
    """The disk refused a read or a write.

    Nothing that it refused is believed. Check the disk, then run the same command again, it
    resumes. A fetch whose disk fails, is read-only or gone waits first, as long as --wait-for-room
    says.
    """

    exit_code = 55


class DestinationExists(StoreError):
    """The destination holds other files under the same names.

    Nothing was overwritten; choose another folder.
    """

    exit_code = 56


class ReleaseChanged(StoreError):
    """Files of a release were edited, moved or removed where they lay.

    What is not held any more is shared no longer: p2phub fsck --repair fetches it again. Of your
    own release, put the files back and publish again, or publish them as another version.
    """

    exit_code = 57
