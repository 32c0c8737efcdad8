"""A folder of the user's, written to without being led astray: each component is opened from the
one above it, links are never followed, names that exist are never replaced.

Only the way to the folder itself is the user's word and may pass links. Paths below were checked by
proto/file_paths.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from p2phub.digest import Sha256
from p2phub.errors import DestinationExists, StoreError, StoreFailed
from p2phub.paths import TREE_UNDER_WAY, tree_under_way
from p2phub.store.file_system import FileSystem, failure, failures, own_bytes
from p2phub.store.stamps import FileStamp

READ_BYTES = 1 << 20
# What opening or reading says of what is no plain file of ours to read: a link, a folder, a pipe.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EINVAL, errno.EACCES, errno.ESPIPE)
TREE_DEPTH_MAX = 3  # folders by publisher, name and version
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class Tree:
    """One folder, made if it does not exist; a context manager."""

    def __init__(self, files: FileSystem, folder: Path) -> None:
        self._files = files
        self.folder = folder
        self._made: set[str] = {""}  # folders that got new names
        files.make_folder(folder)
        with failures(folder):
            self.root = os.open(folder, _FOLDER | os.O_CLOEXEC)

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.root)

    @contextmanager
    def parent_of(self, path: str, *, make: bool = True) -> Iterator[tuple[int, str]]:
        """The folder that `path` lies in, as a descriptor, and the last component.

        Folders between are made.

        Raises DestinationExists where a link or a file is in the way; FileNotFoundError if `make`
        is false and one lacks.
        """
        *above, name = path.split("/")
        opened: list[int] = []
        try:
            folder = self.root
            for at, component in enumerate(above):
                folder = self._step(folder, component, "/".join(above[:at]), make)
                opened.append(folder)
            self._made.add("/".join(above))
            yield folder, name
        finally:
            for file in opened:
                os.close(file)

    def status(self, path: str) -> os.stat_result | None:
        """lstat of `path`; None if nothing is there."""
        try:
            with self.parent_of(path, make=False) as (folder, name), failures(self.folder / path):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def stamp(self, path: str) -> FileStamp:
        status = self.status(path)
        assert status is not None
        return FileStamp.of(status)

    def equals(self, path: str, size: int, sha256: bytes) -> bool:
        """Whether `path` is a plain file with this content: it is read whole."""
        try:
            with self.parent_of(path, make=False) as (folder, name):
                file = self._files.open(name, os.O_RDONLY, folder=folder)
        except (FileNotFoundError, DestinationExists):
            return False
        except StoreFailed as error:
            if error.facts.get("errno") in _NO_FILE:
                return False
            raise
        try:
            if self._files.status(file, path).st_size != size:
                return False
            state, buffer, done = Sha256(), memoryview(bytearray(READ_BYTES)), 0
            while got := self._files.read(file, buffer, done, path):
                state.update(buffer[:got])
                done += got
            return done == size and state.digest() == sha256
        except StoreFailed as error:
            if error.facts.get("errno") in _NO_FILE:
                return False
            raise
        finally:
            os.close(file)

    def sync_to(self, path: str) -> None:
        """Make the name `path`, and those of the folders above it, durable."""
        parts = path.split("/")[:-1]
        for count in range(len(parts), -1, -1):
            self._files.sync_folder(self.folder / "/".join(parts[:count]))

    def sync_made(self) -> None:
        """Make all names durable that came to be through this object, the deepest first."""
        for path in sorted(self._made, key=len, reverse=True):
            self._files.sync_folder(self.folder / path)

    def _step(self, folder: int, component: str, above: str, make: bool) -> int:
        """The folder `component` of an open folder."""
        path = self.folder / above / component
        flags = _FOLDER | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            try:
                return os.open(component, flags, dir_fd=folder)
            except FileNotFoundError:
                if not make:
                    raise
            with failures(path):
                self._files.reach("mkdir", path)
                try:
                    os.mkdir(component, dir_fd=folder)
                except FileExistsError:
                    pass  # another thread was faster
            self._made.add(above)
            return os.open(component, flags, dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise failure(error, path) from error
            raise DestinationExists(
                f"{path} is in the way: a folder must be there. Nothing was overwritten",
                path=str(path),
            ) from None


def remove_tree(folder: Path) -> None:
    """Take away a folder of ours and all in it, as far as the disk lets us."""
    shutil.rmtree(folder, ignore_errors=True)


def discard_tree(tree: Path, above: Path) -> int | None:
    """Take away a tree that appeared whole, so that no crash leaves a part of it in its place; and
    the folders between it and `above` that are empty then. None if there was none.

    Returns the bytes of its files that had no other name. Raises StoreFailed.
    """
    hidden = tree_under_way(tree.parent, secrets.token_hex(8))
    try:
        os.rename(tree, hidden)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise failure(error, tree) from error
    freed_bytes = sum(
        own_bytes(f"{folder}/{name}") for folder, _, names in os.walk(hidden) for name in names
    )
    remove_tree(hidden)
    for folder in tree.parents:
        if folder == above or not folder.is_relative_to(above):
            break
        try:
            os.rmdir(folder)
        except OSError:
            break  # something else lies in it
    return freed_bytes


def remove_stale_trees(above: Path, until_s: float) -> None:
    """Take away what a crash left of trees that were made or discarded below `above`, if nothing
    was done to it since `until_s` (seconds since 1970).
    """
    for depth in range(TREE_DEPTH_MAX):
        for stale in above.glob("*/" * depth + f"{TREE_UNDER_WAY}*"):
            try:
                if os.lstat(stale).st_mtime < until_s:
                    remove_tree(stale)
            except OSError:
                continue  # gone meanwhile
