"""Disks that fill up, and adopted files that their user edits, cuts or removes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2phub.errors import StoreFailed, StoreFull
from p2phub.proto.limits import MIB
from tests.end_to_end.daemons import (
    Daemon,
    Daemons,
    daemons,
    is_same_tree,
    start,
    until,
    write_files,
)

SEED = 11
FILES = {"weights.bin": 12 * MIB, "other.bin": 9 * MIB, "README.md": 300}


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"an edit of the user's")


def truncate(path: Path) -> None:
    os.truncate(path, 4 * MIB)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@dataclass(frozen=True)
class Holders:
    """Who publishes, who has fetched it all, and who comes late."""

    all: Daemons
    publisher: Daemon
    mirror: Daemon
    late: Daemon


@pytest.fixture(scope="module")
def holders() -> Iterator[Holders]:
    with daemons() as all:
        yield Holders(all, *all.start_all(["publisher", "mirror", "late"], bootstrap=[]))


CHANGES = [edit, truncate, append, Path.unlink]


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=lambda n: CHANGES[n].__name__)
def test_a_changed_adopted_file_is_told_of_and_never_served(holders: Holders, number: int) -> None:
    all, publisher = holders.all, holders.publisher
    folder = write_files(all.folder / f"model-{number}", FILES, SEED + number)
    genuine = write_files(all.folder / f"genuine-{number}", FILES, SEED + number)
    content_id = publisher.publish(folder, f"adopted-{number}")["content_id"]
    holders.mirror.json("fetch", content_id, "--peer", publisher.address)
    changed = folder / "weights.bin"
    CHANGES[number](changed)
    messages = [notice["message"] for notice in publisher.status()["notices"]]
    assert any(str(changed) in message for message in messages), messages
    peers = ["--peer", publisher.address, "--peer", holders.mirror.address]
    fetched = holders.late.json("fetch", content_id, *peers)
    assert is_same_tree(Path(fetched["path"]), genuine)
    assert [peer["fault"] for peer in fetched["peers"] if peer["fault"]] == []
    sent = {peer["peer_id"]: peer["bytes"] for peer in fetched["peers"]}
    assert sent[holders.mirror.peer_id] >= FILES["weights.bin"]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes, in memory."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], check=True
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


@dataclass(frozen=True)
class Source:
    """A publisher of a few large files and of many small ones."""

    all: Daemons
    publisher: Daemon
    large: Path
    small: Path

    def fetch(self, folder: Path, *, wait: str = "0") -> tuple[str, ...]:
        """The words of a fetch of one of its folders. wait: for room."""
        published = self.publisher.publish(folder, folder.name)  # the second time says the same
        peer = ("--peer", self.publisher.address)
        return ("fetch", published["content_id"], *peer, "--wait-for-room", wait, "--json")


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with daemons() as all:
        large = write_files(all.folder / "large", FILES, SEED)
        sizes = {f"{number}.txt": 10_000 for number in range(1200)}
        small = write_files(all.folder / "small", sizes, SEED)
        yield Source(all, all.start("publisher"), large, small)


@pytest.mark.root
def test_a_full_disk_is_said_before_the_first_byte(source: Source) -> None:
    with small_disk(source.all.folder / "disk", 100 * MIB) as disk:
        filling = disk / "filling"
        filling.write_bytes(bytes(60 * MIB))
        user = source.all.make("before", home=disk / "home").start()
        refused = user.run(*source.fetch(source.large))
        assert refused.code == StoreFull.exit_code
        assert "free" in refused.error["message"]
        assert list((disk / "home" / "store" / "part").rglob("*")) == []
        assert user.json("ls") == []
        filling.unlink()
        fetched = user.run(*source.fetch(source.large)).value
        assert is_same_tree(Path(fetched["path"]), source.large)
        user.stop()


@pytest.mark.root
def test_a_disk_that_fills_up_under_way_loses_nothing(source: Source) -> None:
    with small_disk(source.all.folder / "disk", 64 * MIB) as disk:
        user = source.all.make("under-way", home=disk / "home").start()
        filling = disk / "filling"
        filling.write_bytes(bytes(shutil.disk_usage(disk).free - 6 * MIB))
        refused = user.run(*source.fetch(source.small))
        assert refused.code == StoreFull.exit_code, refused.stderr
        assert user.json("ls") == []
        filling.unlink()
        fetched = user.run(*source.fetch(source.small)).value
        assert is_same_tree(Path(fetched["path"]), source.small)
        assert user.json("verify", fetched["content_id"])["faults"] == []
        user.stop()


@pytest.mark.root
def test_a_fetch_waits_while_its_disk_is_full_and_goes_on_by_itself(source: Source) -> None:
    with small_disk(source.all.folder / "disk", 64 * MIB) as disk:
        user = source.all.make("waiting", home=disk / "home").start()
        filling = disk / "filling"
        filling.write_bytes(bytes(shutil.disk_usage(disk).free - 6 * MIB))
        running = start(user.home, *source.fetch(source.small, wait="2m"))
        paused: list[dict[str, Any]] = []

        def is_paused() -> bool:
            rows = user.status()["transfers"]
            paused[:] = [row["progress"] for row in rows if row["progress"]["stage"] == "paused"]
            return bool(paused)

        until(is_paused, "paused")
        assert paused[0]["pause"]["kind"] == "StoreFull"
        assert "free" in paused[0]["note"]
        assert running.poll() is None
        filling.unlink()
        stdout, stderr = running.communicate(timeout=60)
        assert running.returncode == 0, stderr
        fetched = json.loads(stdout)
        assert fetched["paused_seconds"] > 0.5
        assert is_same_tree(Path(fetched["path"]), source.small)
        told = [json.loads(line)["progress"]["stage"] for line in stderr.splitlines()]
        assert told[0] == "paused"
        assert "paused" not in told[-1:]
        assert user.json("verify", fetched["content_id"])["faults"] == []
        user.stop()


@pytest.mark.root
def test_a_daemon_lives_on_a_full_disk(source: Source) -> None:
    with small_disk(source.all.folder / "disk", 32 * MIB) as disk:
        user = source.all.make("living", home=disk / "home").start()
        fetched = user.run(*source.fetch(source.small)).value
        with (disk / "filling").open("wb") as filling, suppress(OSError):
            while filling.write(bytes(MIB)):
                filling.flush()
        assert user.json("verify", fetched["content_id"])["faults"] == []
        assert user.status()["releases"] == 1
        assert user.run("scrub").code == StoreFull.exit_code
        assert user.stop()[0] == 0


@pytest.mark.root
def test_publishing_from_a_full_disk_changes_nothing(source: Source) -> None:
    with small_disk(source.all.folder / "disk", 24 * MIB) as disk:
        publisher = source.all.make("own", home=disk / "home").start()
        first = write_files(source.all.folder / "first", {"a.txt": 1000}, SEED)
        content_id = publisher.publish(first, "first")["content_id"]
        filling = disk / "filling"
        filling.write_bytes(bytes(shutil.disk_usage(disk).free))
        words = ("--name", "second", "--version", "1.0", "--passphrase-file")
        words += (str(disk / "passphrase"), "--json")
        refused = publisher.run("publish", str(source.small), *words)
        assert refused.code == StoreFull.exit_code, refused.stderr
        assert [row["content_id"] for row in publisher.json("ls")] == [content_id]
        filling.unlink()
        published = publisher.run("publish", str(source.small), *words).value
        publisher.stop()
        publisher.start()
        states = {row["content_id"]: row["state"] for row in publisher.json("ls")}
        assert states == {content_id: "published", published["content_id"]: "published"}
        assert publisher.json("verify", published["content_id"])["faults"] == []
        publisher.stop()


def test_a_disk_that_refuses_a_write_is_said_and_the_fetch_resumes(source: Source) -> None:
    """No file may grow beyond a limit, which needs no root; other disk errors are alike."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, resource.RLIM_INFINITY))

    user = source.all.make("limited", limits=limit).start()
    refused = user.run(*source.fetch(source.large))
    assert refused.code in (StoreFailed.exit_code, StoreFull.exit_code), refused.stderr
    assert user.json("ls") == []
    user.stop()
    user.limits = None
    user.start()
    fetched = user.run(*source.fetch(source.large)).value
    assert is_same_tree(Path(fetched["path"]), source.large)
