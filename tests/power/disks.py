"""Real disks to cut the power of: file systems in image files, mounted by way of a loop device.

A cut is FS_IOC_SHUTDOWN without a flush of the log: from that moment every write fails, and what
was not synced is never seen again. Whoever mounts lets go of everything at the end; a loop device
goes with its mount.

Source: linux/fs.h and fs/ext4/ioctl.c, fs/xfs/xfs_fsops.c of Linux 6; measured on both.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FS_IOC_SHUTDOWN = 0x8004587D  # ioctl _IOR('X', 125, u32)
_NO_LOG_FLUSH = struct.pack("I", 2)
IMAGE_BYTES = 512 << 20  # sparse; mkfs.xfs refuses less than 300 MiB
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


def missing(kind: str) -> str | None:
    """Why a disk of this kind can't be made here; None if it can. Rights are not looked at."""
    if shutil.which(MAKE[kind][0]) is None:
        return f"needs the program {MAKE[kind][0]} (Debian: e2fsprogs, xfsprogs)"
    known = Path("/proc/filesystems").read_text().split()
    if kind not in known:
        return f"this kernel has no {kind}"
    if not Path("/dev/loop-control").exists():
        return "needs loop devices"
    return None


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: what is waited for is the disk's part, not ours."""
    memory = Path("/dev/shm")
    above = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=above) as folder:
        yield Path(folder)


class LoopDisk:
    """A file system of its own at `point`."""

    def __init__(self, kind: str, image: Path, point: Path) -> None:
        self.kind = kind
        self.point = point
        self._image = image
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run([*MAKE[kind], str(image)], check=True, stdout=subprocess.DEVNULL)
        point.mkdir(exist_ok=True)

    def mount(self) -> None:
        words = ["mount", "-t", self.kind, "-o", "loop", str(self._image), str(self.point)]
        subprocess.run(words, check=True)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.point)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.point)], check=True)

    def open(self) -> int:
        """A descriptor to cut the power by."""
        return os.open(self.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def used_bytes(self) -> int:
        """By the file system's own count, after all that waits was written."""
        os.sync()
        status = os.statvfs(self.point)
        return (status.f_blocks - status.f_bfree) * status.f_frsize


def cut_power(disk: int) -> None:
    """disk: from `LoopDisk.open`."""
    fcntl.ioctl(disk, _FS_IOC_SHUTDOWN, _NO_LOG_FLUSH)


@contextmanager
def mounted(kind: str, folder: Path, name: str = "disk") -> Iterator[LoopDisk]:
    """A new disk, mounted while the block runs."""
    disk = LoopDisk(kind, folder / f"{name}.img", folder / name)
    disk.mount()
    try:
        yield disk
    finally:
        if os.path.ismount(disk.point):
            # Lazily: whatever still has a file open there must not keep it for ever.
            subprocess.run(["umount", "-l", str(disk.point)], check=True)
        (folder / f"{name}.img").unlink()
