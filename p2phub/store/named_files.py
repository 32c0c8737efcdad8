"""Files somewhere on this disk that another tool keeps under names which say what their bytes are:
the listing that an ingest reads, and the comparison after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2phub.digest import git_blob_id
from p2phub.errors import ContentError, FileChanged
from p2phub.store.base import SourceFile
from p2phub.store.folder import FolderListing, FoundFile
from p2phub.store.stamps import FileStamp


@dataclass(frozen=True, slots=True)
class NamedFile:
    """One file as a release shall have it, where it lies, and what its bytes must be."""

    path: str  # within the release
    place: Path  # absolute, no link
    stamp: FileStamp
    sha256: bytes = b""  # that its name promises; empty: it promises none
    git: bytes = b""  # git's name of it, 20 bytes; empty: it has none

    @property
    def is_named(self) -> bool:
        """Whether its bytes can be compared with anything."""
        return bool(self.sha256 or self.git)


def listing_of(folder: Path, files: Sequence[NamedFile]) -> FolderListing:
    """The files as an ingest reads them. folder: what messages call the whole."""
    return FolderListing(
        folder, tuple(FoundFile(file.path, file.stamp, file.place) for file in files), ()
    )


def check_names(files: Sequence[NamedFile], sources: Sequence[SourceFile]) -> None:
    """Compare what was read with what the names promise.

    sources: of the same files, just read. Raises ContentError (facts: path, expected, got) for
    the first that is another, FileChanged if one was changed meanwhile.
    """
    read = {source.record.path: source for source in sources}
    for file in files:
        source = read[file.path]
        if file.sha256 and source.record.sha256 != file.sha256:
            raise _mismatch(file, file.sha256, source.record.sha256)
        if file.git and not file.sha256:
            data = file.place.read_bytes()
            if FileStamp.of(file.place.lstat()) != source.stamp:
                raise FileChanged(f"{file.place} changed while it was read", path=str(file.place))
            got = git_blob_id(data)
            if got != file.git:
                raise _mismatch(file, file.git, got)


def _mismatch(file: NamedFile, expected: bytes, got: bytes) -> ContentError:
    return ContentError(
        f"{file.place} does not hold the bytes that its name promises: nothing was taken; delete it"
        " there and download it again",
        path=file.path, place=str(file.place), expected=expected.hex(), got=got.hex(),
    )  # fmt: skip
