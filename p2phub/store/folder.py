"""What a folder holds that can be published: regular files with safe names, no links followed.

Names are judged before a byte is read. Links, sockets and devices are refused, not passed over: a
release without a file that its folder seems to hold would be a surprise. What git, Hugging Face's
downloader and p2phub itself keep beside the files is passed over, and said.

Source: SPEC.md section 6.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2phub.errors import NoSuchFile, NothingToPublish, TooLarge, UnpublishableFile
from p2phub.proto.file_paths import check_path, check_together
from p2phub.proto.limits import FILES_MAX
from p2phub.store.stamps import FileStamp


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file below the folder, as it was when the folder was looked through."""

    path: str  # relative, safe
    stamp: FileStamp
    place: Path | None = None  # where it lies, if not below the folder under its path


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Something in the folder that is no part of the release, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FolderListing:
    """All that a folder holds, sorted by the bytes of the paths."""

    folder: Path  # absolute
    files: tuple[FoundFile, ...]
    passed_over: tuple[PassedOver, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stamp.size for file in self.files)


def list_folder(folder: Path) -> FolderListing:
    """Every file that a release of `folder` has.

    folder: itself may be a link, as the user named it. Raises NoSuchFile, NothingToPublish,
    HostilePath, UnpublishableFile, TooLarge.
    """
    root = Path(os.path.realpath(folder))
    if not os.path.isdir(root):
        raise NoSuchFile(f"{folder} is not a folder; name the folder that holds the files")
    files: list[FoundFile] = []
    passed_over: list[PassedOver] = []
    for path, entry in _walk(root, "", passed_over):
        status = _status(entry)
        if not stat.S_ISREG(status.st_mode):
            raise UnpublishableFile(
                f"{path!a} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'not a regular file')}: "
                + (
                    "a snapshot in the Hub's cache is published with `p2phub import hf ORG/NAME`"
                    if _is_hub_snapshot(root)
                    else "put the file itself there, or take it out of the folder"
                ),
                path=path,
            )
        files.append(FoundFile(check_path(path), FileStamp.of(status)))
        if len(files) > FILES_MAX:
            raise TooLarge(f"the folder holds more than {FILES_MAX:,} files", path=str(root))
    if not files:
        raise NothingToPublish(f"{root} holds no file that can be published", path=str(root))
    files.sort(key=lambda file: file.path.encode("utf-8"))
    check_together(file.path for file in files)
    return FolderListing(root, tuple(files), tuple(passed_over))


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def _is_hub_snapshot(root: Path) -> bool:
    """Whether the folder is a revision in huggingface_hub's cache, all of whose files are links.

    Source: huggingface_hub, "Understand caching": {models|datasets}--ORG--NAME/snapshots/COMMIT.
    """
    return root.parent.name == "snapshots" and "--" in root.parent.parent.name


def _walk(
    folder: Path, prefix: str, passed_over: list[PassedOver]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry that is no folder, with its path.

    Folders that are left to look into wait in a list, not on the stack.
    """
    waiting = [prefix]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(folder / here if here else folder) as entries:
                found = list(entries)
        except OSError as error:
            raise _unreadable(here or str(folder), error) from error
        for entry in found:
            path = f"{here}/{entry.name}" if here else entry.name
            reason = _reason_to_pass_over(path, entry.name)
            if reason:
                passed_over.append(PassedOver(path, reason))
            elif entry.is_dir(follow_symlinks=False):
                check_path(path)  # bounds the depth too
                waiting.append(path)
            else:
                yield path, entry


def _reason_to_pass_over(path: str, name: str) -> str | None:
    folded = name.casefold()
    if folded == ".git" or folded.startswith(".git"):
        return "git's own, not part of the files"
    if folded.startswith(".p2phub"):
        return "p2phub's own"
    if path == ".cache/huggingface" or path.endswith("/.cache/huggingface"):
        return "notes of the Hugging Face downloader"
    return None


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as error:
        raise _unreadable(entry.path, error) from error


def _unreadable(path: str, error: OSError) -> UnpublishableFile:
    return UnpublishableFile(
        f"{path!a} cannot be read: {error.strerror}. Nothing was published", path=path
    )
