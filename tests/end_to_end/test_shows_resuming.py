"""A fetch whose daemon is killed at a random moment goes on where it was."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2phub.proto.limits import MIB
from tests.end_to_end.daemons import Daemon, Daemons, daemons, is_same_tree, start, write_files

SEED = 1729
REFETCHED_BYTES_MAX = 64 * MIB  # over all files: what lies between two checkpoints, and in flight


@dataclass(frozen=True)
class Killed:
    """What one killed fetch cost."""

    after_s: float
    held_bytes: int  # when the daemon came back
    refetched_bytes: int


def test_ten_killed_fetches_resume() -> None:
    fetch_killed(10, {f"part-{number}.bin": 12 * MIB for number in range(4)})


@pytest.mark.long
def test_fifty_killed_fetches_of_many_megabytes_resume() -> None:
    fetch_killed(50, {f"part-{number}.bin": 48 * MIB for number in range(4)})


def fetch_killed(count: int, sizes: dict[str, int]) -> None:
    rng = random.Random(SEED)
    with daemons() as world:
        publisher = world.start("publisher")
        folder = write_files(world.folder / "model", sizes, SEED)
        content_id = publisher.publish(folder, "large")["content_id"]
        first = world.start("unkilled", bootstrap=[publisher])
        seconds = first.run("fetch", content_id, "--peer", publisher.address, "--json").seconds
        first.stop()
        shutil.rmtree(first.home)
        size = sum(sizes.values())
        killed = [
            fetch_once(world, publisher, folder, content_id, number, rng.uniform(0, 1.1) * seconds)
            for number in range(count)
        ]
        worst = max(kill.refetched_bytes for kill in killed)
        cut_short = sum(0 < kill.held_bytes < size for kill in killed)
        sys.stderr.write(
            f"seed {SEED}: {count} fetches of {size / MIB:.0f} MiB killed within "
            f"{1.1 * seconds:.2f} s, {cut_short} with a part on the disk; refetched at most "
            f"{worst / MIB:.1f} MiB\n"
        )


def fetch_once(
    world: Daemons,
    publisher: Daemon,
    folder: Path,
    content_id: str,
    number: int,
    after_s: float,
) -> Killed:
    destination = world.folder / f"fetched-{number}"
    arguments = ["fetch", content_id, "-o", str(destination), "--peer", publisher.address, "--json"]
    sent_before = publisher.status()["sent_bytes"]
    daemon = world.start(f"killed-{number}")
    running = start(daemon.home, *arguments)
    try:
        running.wait(after_s)
    except subprocess.TimeoutExpired:
        pass  # as it should: it runs, and dies with its daemon
    daemon.kill()
    running.communicate(timeout=10)
    daemon.start()
    held_bytes = sum(release["held_bytes"] for release in daemon.json("ls"))
    fetched = daemon.json(*arguments[:-1])
    assert Path(fetched["path"]) == destination
    assert is_same_tree(destination, folder)
    verified = daemon.json("verify", content_id)
    assert verified["faults"] == [] and verified["missing_bytes"] == 0
    daemon.stop()
    size = fetched["data_size"]
    refetched_bytes = publisher.status()["sent_bytes"] - sent_before - size
    assert refetched_bytes <= REFETCHED_BYTES_MAX, f"killed after {after_s:.3f} s"
    shutil.rmtree(daemon.home)
    shutil.rmtree(destination)
    return Killed(after_s, held_bytes, refetched_bytes)
