"""Calls to the operating system: what they promise, and how refusals are said."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2phub.errors import StoreFailed, StoreFull
from p2phub.store.file_system import FileSystem, failure, network_file_system

FILES = FileSystem()
MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /mnt/share rw,relatime - nfs4 server:/export rw
31 30 254:1 / /mnt/share/local rw - xfs /dev/vdb rw
32 22 0:26 / /mnt/with\\040space rw - cifs //server/x rw
33 22 0:27 / /mnt/shared rw - btrfs /dev/vdc rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/store", None),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/deep/store", "nfs4"),
        ("/mnt/share/local/store", None),
        ("/mnt/with space/store", "cifs"),
        ("/mnt/shared/store", None),
    ],
)
def test_network_file_systems_are_told_by_their_mount(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind
    assert network_file_system(Path(path), "") is None


def test_refusals_carry_path_and_number() -> None:
    full = failure(OSError(errno.ENOSPC, "No space left on device"), "here")
    assert isinstance(full, StoreFull)
    assert full.facts == {"path": "here", "errno": errno.ENOSPC}
    assert "here" in str(full)
    assert isinstance(failure(OSError(errno.EIO, "I/O error"), "here"), StoreFailed)


def test_nothing_is_ever_renamed_over(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    with pytest.raises(FileExistsError):
        FILES.rename_new(one, two)
    assert two.read_bytes() == b"2"
    FILES.rename_new(one, tmp_path / "three")
    assert (tmp_path / "three").read_bytes() == b"1"
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError):
        FILES.rename_new(tmp_path / "full", tmp_path / "empty")


def test_a_link_at_the_end_of_a_path_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(StoreFailed):
        FILES.open(tmp_path / "link", os.O_RDONLY)


def test_a_pipe_does_not_hang_who_opens_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = FILES.open(tmp_path / "pipe", os.O_RDONLY)
    FILES.close(file)


def test_allocation_gives_a_file_its_size_and_its_blocks(tmp_path: Path) -> None:
    file = FILES.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    FILES.allocate(file, 1 << 20, "part")
    status = os.fstat(file)
    assert status.st_size == 1 << 20
    assert status.st_blocks * 512 >= 1 << 20
    FILES.close(file)


def test_many_pieces_are_written_in_order(tmp_path: Path) -> None:
    file = FILES.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    pieces = [bytes([number % 256]) * (number % 5) for number in range(3000)]
    assert FILES.write(file, pieces, 7, "file") == sum(map(len, pieces))
    into = memoryview(bytearray(10_000))
    got = FILES.read(file, into, 7, "file")
    assert into[:got] == b"".join(pieces)
    FILES.close(file)


def test_a_copy_is_whole_or_says_so(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "source").write_bytes(data)
    source = FILES.open(tmp_path / "source", os.O_RDONLY)
    target = FILES.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    FILES.copy(source, target, len(data), "target")
    assert (tmp_path / "target").read_bytes() == data
    with pytest.raises(StoreFailed, match="shorter"):
        FILES.copy(source, target, len(data) + 1, "target")
    FILES.close(source)
    FILES.close(target)


def test_a_limit_on_file_sizes_is_a_lack_of_room(tmp_path: Path) -> None:
    # In a process of its own: the limit can't be taken back.
    script = f"""
import os, resource, signal
from p2phub.errors import StoreFull
from p2phub.store.file_system import FileSystem
signal.signal(signal.{signal.SIGXFSZ.name}, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
files = FileSystem()
file = files.open({str(tmp_path / "file")!r}, os.O_RDWR | os.O_CREAT)
for call in (lambda: files.write(file, [bytes(2000)], 0, "file"),
             lambda: files.allocate(file, 5000, "file")):
    try:
        call()
    except StoreFull as error:
        print(error.facts["errno"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == [str(errno.EFBIG)] * 2
