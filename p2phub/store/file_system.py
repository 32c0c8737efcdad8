"""Every call by which the store touches the disk, with the operating system's refusals as errors of
the store.

Each call first passes `reach`, which does nothing: tests override it to count, to refuse or to die
at that very call. Rules: no call retries a failed sync; no call follows a symbolic link at the last
component of a path.

Source: Linux man pages of fallocate, ioctl_ficlone, renameat2, fsync; POSIX *at() calls elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from p2phub.durable import failure as failure
from p2phub.durable import failures as failures
from p2phub.errors import StoreFailed

AnyPath: TypeAlias = str | Path

_NOT_SUPPORTED = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
)
_FICLONE = 0x40049409  # ioctl: share all blocks of another file
_RENAME_NOREPLACE = 1
_IOV_MAX = 1024  # vectors in one pwritev
_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "9p", "lustre", "fuse.sshfs"}
)
_OCTAL = re.compile(r"\\(\d{3})")  # how mountinfo writes a space in a path
_libc = ctypes.CDLL(None, use_errno=True)


class FileSystem:
    """The operating system's files. Every method may raise StoreFull or StoreFailed."""

    def reach(self, call: str, path: AnyPath) -> None:
        """About to make `call` on `path`. An OSError raised here is as if the call gave it."""

    # ---- bytes

    def open(
        self, path: AnyPath, flags: int, mode: int = 0o644, *, folder: int | None = None
    ) -> int:
        """A descriptor; never follows a link at the end of `path`.

        FileExistsError passes as it is. So does FileNotFoundError, but not for a file to be made:
        then its folder is gone.
        """
        try:
            self.reach("open", path)
            return os.open(
                path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=folder
            )
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            if flags & os.O_CREAT:
                raise failure(error, path) from error
            raise
        except OSError as error:
            raise failure(error, path) from error

    def close(self, file: int) -> None:
        os.close(file)

    def status(self, file: int, path: AnyPath) -> os.stat_result:
        """fstat. It too fails on a disk that has failed: XFS refuses it after a forced shutdown."""
        try:
            self.reach("status", path)
            return os.fstat(file)
        except OSError as error:
            raise failure(error, path) from error

    def read(self, file: int, into: memoryview, offset: int, path: AnyPath) -> int:
        """Fill `into` from `offset` on; fewer bytes than asked for mean the end of the file."""
        done = 0
        try:
            while done < len(into):
                count = os.preadv(file, [into[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise failure(error, path) from error
        return done

    def written_ranges(
        self, file: int, start: int, stop: int, path: AnyPath
    ) -> list[tuple[int, int]]:
        """The parts of [start, stop) that may have been written to: room that was only allocated
        is left out where the file system can tell.
        """
        ranges: list[tuple[int, int]] = []
        try:
            while start < stop:
                low = os.lseek(file, start, os.SEEK_DATA)
                high = os.lseek(file, low, os.SEEK_HOLE)
                if low < stop:
                    ranges.append((low, min(high, stop)))
                start = high
        except OSError as error:
            if error.errno == errno.ENXIO:
                return ranges  # a hole up to the end of the file
            if error.errno in _NOT_SUPPORTED:
                return [*ranges, (start, stop)]
            raise failure(error, path) from error
        return ranges

    def write(
        self, file: int, data: Sequence[memoryview | bytes], offset: int, path: AnyPath
    ) -> int:
        """Write all of `data`, one after another, from `offset` on; how many bytes that were."""
        total = 0
        try:
            for start in range(0, len(data), _IOV_MAX):
                views = list(data[start : start + _IOV_MAX])
                while views:
                    self.reach("write", path)
                    count = os.pwritev(file, views, offset + total)
                    total += count
                    while views and count >= len(views[0]):
                        count -= len(views.pop(0))
                    if views and count:
                        views[0] = memoryview(views[0])[count:]
        except OSError as error:
            raise failure(error, path) from error
        return total

    def allocate(self, file: int, size: int, path: AnyPath) -> None:
        """Give a new file its blocks at once, so that it can't run out of room later; a hole where
        that is not supported.
        """
        try:
            self.reach("allocate", path)
            # posix_fallocate would write zeros itself where the file system can't allocate.
            if size and hasattr(_libc, "fallocate"):
                call = _libc.fallocate
                call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
                if call(file, 0, 0, size) == 0:
                    return
                code = ctypes.get_errno()
                if code not in _NOT_SUPPORTED:
                    raise OSError(code, os.strerror(code))
            os.ftruncate(file, size)
        except OSError as error:
            raise failure(error, path) from error

    def truncate(self, file: int, size: int, path: AnyPath) -> None:
        with failures(path):
            self.reach("truncate", path)
            os.ftruncate(file, size)

    def sync_data(self, file: int, path: AnyPath) -> None:
        """After this the file's bytes survive a power cut.

        If it raises, what was written since the last sync may be gone.
        """
        with failures(path):
            self.reach("sync", path)
            getattr(os, "fdatasync", os.fsync)(file)

    def sync(self, file: int, path: AnyPath) -> None:
        """As `sync_data`, with size, times and mode."""
        with failures(path):
            self.reach("sync", path)
            os.fsync(file)

    def clone(self, source: int, target: int, path: AnyPath) -> bool:
        """Make `target` share all blocks of `source`. False where the file system can't."""
        try:
            self.reach("clone", path)
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return False
            raise failure(error, path) from error
        return True

    def copy(self, source: int, target: int, size: int, path: AnyPath) -> None:
        """Write the first `size` bytes of `source` into `target`, in the kernel if it can."""
        done = 0
        with failures(path):
            while done < size:
                self.reach("write", path)
                try:
                    count = os.copy_file_range(source, target, size - done, done, done)
                except OSError as error:
                    if error.errno not in _NOT_SUPPORTED:
                        raise
                    data = os.pread(source, min(size - done, 1 << 20), done)
                    count = os.pwrite(target, data, done)
                if count == 0:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                done += count

    def set_mode(self, file: int, mode: int, path: AnyPath) -> None:
        with failures(path):
            self.reach("chmod", path)
            os.fchmod(file, mode)

    # ---- names

    def sync_file_system(self, file: int, path: AnyPath) -> None:
        """After this all that was written to the file system of `file` survives a power cut: one
        wait for many files.
        """
        with failures(path):
            self.reach("sync", path)
            if not hasattr(_libc, "syncfs"):
                os.sync()
            elif _libc.syncfs(file):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))

    def sync_folder(self, path: AnyPath) -> None:
        """After this the names in a folder survive a power cut."""
        with failures(path):
            file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.reach("sync", path)
                os.fsync(file)
            finally:
                os.close(file)

    def make_folder(self, path: AnyPath) -> None:
        """A folder and those above it, each new one durable; nothing if it exists."""
        path = Path(path)
        with failures(path):
            if path.is_dir():
                return
        self.make_folder(path.parent)
        with failures(path):
            self.reach("mkdir", path)
            try:
                os.mkdir(path)
            except FileExistsError:
                if not path.is_dir():
                    raise
        self.sync_folder(path.parent)

    def rename(self, source: AnyPath, target: AnyPath) -> None:
        """Replaces what is at `target`. Not durable before both folders are synced."""
        with failures(target):
            self.reach("rename", target)
            os.rename(source, target)

    def move(self, source: AnyPath, target: AnyPath, scratch: AnyPath) -> None:
        """As `rename`, by way of a synced copy at `scratch` (same file system as `target`) where a
        rename can't.
        """
        try:
            return self.rename(source, target)
        except StoreFailed as error:
            if error.facts["errno"] != errno.EXDEV:
                raise
        self.remove(scratch)
        old = self.open(source, os.O_RDONLY)
        try:
            new = self.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                status = self.status(old, source)
                self.copy(old, new, status.st_size, scratch)
                self.set_mode(new, stat.S_IMODE(status.st_mode), scratch)
                self.sync(new, scratch)
            finally:
                self.close(new)
        finally:
            self.close(old)
        self.rename(scratch, target)
        self.remove(source)

    def rename_new(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        source_folder: int = -100,
        target_folder: int = -100,
    ) -> None:
        """Raises FileExistsError if there is anything at `target`: nothing is ever replaced.

        The folders are descriptors that relative paths begin at; -100 is the working folder.
        """
        try:
            self.reach("rename", target)
            if hasattr(_libc, "renameat2"):
                call = _libc.renameat2
                call.argtypes = (
                    ctypes.c_int,
                    ctypes.c_char_p,
                    ctypes.c_int,
                    ctypes.c_char_p,
                    ctypes.c_uint,
                )
                old, new = os.fsencode(source), os.fsencode(target)
                if call(source_folder, old, target_folder, new, _RENAME_NOREPLACE) == 0:
                    return
                code = ctypes.get_errno()
                if code not in (errno.EINVAL, errno.ENOSYS):
                    raise OSError(code, os.strerror(code), str(target))
            # Without the flag: a link fails if the name is taken; a folder is checked, then
            # renamed.
            begin = None if source_folder == -100 else source_folder
            end = None if target_folder == -100 else target_folder
            if stat.S_ISDIR(os.stat(source, dir_fd=begin, follow_symlinks=False).st_mode):
                try:
                    os.stat(target, dir_fd=end, follow_symlinks=False)
                except FileNotFoundError:
                    os.rename(source, target, src_dir_fd=begin, dst_dir_fd=end)
                else:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            else:
                os.link(source, target, src_dir_fd=begin, dst_dir_fd=end, follow_symlinks=False)
                os.unlink(source, dir_fd=begin)
        except FileExistsError:
            raise
        except OSError as error:
            raise failure(error, target) from error

    def link(self, source: AnyPath, target: AnyPath, *, target_folder: int | None = None) -> bool:
        """A second name for a file.

        False where the file system can't or the file has too many names.
        """
        try:
            self.reach("link", target)
            os.link(source, target, dst_dir_fd=target_folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED | {errno.EMLINK}:
                return False
            raise failure(error, target) from error
        return True

    def remove(self, path: AnyPath) -> None:
        """Nothing if there is no such file."""
        try:
            self.reach("unlink", path)
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise failure(error, path) from error

    def free_bytes(self, path: AnyPath) -> int:
        """Room for us on the file system of `path`."""
        with failures(path):
            status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


def listed(folder: Path) -> list[str]:
    """The names in a folder; none where it can't be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def own_bytes(path: AnyPath) -> int:
    """What goes free with a file: what it takes on the disk; 0 if it has other names too, which
    keep its blocks, or is not there.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    return status.st_blocks * 512 if status.st_nlink == 1 else 0


def network_file_system(path: Path, mounts: str) -> str | None:
    """The type of the network file system that `path` lies on, or None if it is local.

    mounts: the text of /proc/self/mountinfo, whose fields are described in proc(5).
    """
    best, found = -1, ""
    for line in mounts.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if (path == Path(point) or Path(point) in path.parents) and len(point) >= best:
            best, found = len(point), right.split(" ")[0]
    return found if found in _NETWORK_TYPES else None
