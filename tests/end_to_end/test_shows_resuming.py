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
from tests.end_to_end.daemons import Daemon, daemons, is_same_tree, start, write_files

SEED = 1729
FILES_COUNT = 4
REFETCHED_BYTES_MAX = 64 * MIB  # over all files: what lies between two checkpoints, and in flight
COMMAND_START_S = 0.1  # before a command asks its daemon
GROUPS_MAX = 10  # of four files each in one release: as much as a home gathers before it is emptied


@dataclass(frozen=True)
class Kill:
    """What one killed fetch cost."""

    at_share: float  # of the bytes, sent when its daemon died
    refetched_bytes: int


def test_five_killed_fetches_resume() -> None:
    fetch_killed(5, 18 * MIB)


@pytest.mark.long
def test_fifty_killed_fetches_of_many_megabytes_resume() -> None:
    fetch_killed(50, 48 * MIB)


def fetch_killed(count: int, file_size: int) -> None:
    """Fetch `count` times, each time four files that the home does not have."""
    rng = random.Random(SEED)
    groups = min(count, GROUPS_MAX)
    names = [f"{group}/part-{n}.bin" for group in range(groups + 1) for n in range(FILES_COUNT)]
    with daemons() as world:
        publisher = world.start("publisher")
        folder = write_files(world.folder / "model", dict.fromkeys(names, file_size), SEED)
        content_id = publisher.publish(folder, "large")["content_id"]
        fetcher = world.start("fetcher")
        fetch = ["fetch", content_id, "--peer", publisher.address, "--include"]
        unkilled = fetcher.json(*fetch, f"{groups}/*")
        kills = []
        for number in range(count):
            group = number % groups
            words = [*fetch, f"{group}/*"]
            if number % 2:
                words += ["-o", str(world.folder / f"fetched-{number}")]
            after_s = COMMAND_START_S + rng.uniform(0, 1.1) * unkilled["seconds"]
            kills.append(kill_once(publisher, fetcher, words, after_s, folder / str(group)))
            if group == groups - 1:
                verified = fetcher.json("verify", content_id)
                assert verified["faults"] == []
                assert verified["data_size"] >= groups * FILES_COUNT * file_size
                fetcher.stop()
                shutil.rmtree(fetcher.home)
                for fetched in world.folder.glob("fetched-*"):
                    shutil.rmtree(fetched)
                fetcher.start()
    shares = sorted(kill.at_share for kill in kills)
    worst = max(kill.refetched_bytes for kill in kills)
    sys.stderr.write(
        f"seed {SEED}: {count} fetches of {FILES_COUNT} x {file_size / MIB:.0f} MiB killed, "
        f"{sum(0 < share < 1 for share in shares)} under way; "
        f"refetched at most {worst / MIB:.1f} MiB\n"
    )


def kill_once(
    publisher: Daemon, fetcher: Daemon, words: list[str], after_s: float, genuine: Path
) -> Kill:
    """Kill the daemon `after_s` seconds after the fetch began, start it and fetch again."""
    sent_before = publisher.status()["sent_bytes"]
    running = start(fetcher.home, *words)
    try:
        running.wait(after_s)
    except subprocess.TimeoutExpired:
        pass  # it dies with its daemon
    fetcher.kill()
    running.communicate(timeout=10)
    sent_bytes = publisher.status()["sent_bytes"] - sent_before
    fetcher.start()
    fetched = fetcher.json(*words)
    size = sum(path.stat().st_size for path in genuine.iterdir())
    refetched_bytes = publisher.status()["sent_bytes"] - sent_before - size
    assert is_same_tree(Path(fetched["path"]) / genuine.name, genuine)
    assert refetched_bytes <= REFETCHED_BYTES_MAX, f"seed {SEED}, killed after {after_s:.3f} s"
    return Kill(sent_bytes / size, refetched_bytes)
