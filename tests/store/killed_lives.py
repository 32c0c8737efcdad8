"""A process that lets children live the small life of a store, killed with SIGKILL at random calls,
and looks what is left.

Run as a script: FOLDER COUNT [SEED]. One thread, so that it may fork.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from p2phub.store.base import Store
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import AnyPath, FileSystem
from tests.store.small_life import (
    FILES,
    SmallLife,
    is_held,
)


class DeadlyFileSystem(FileSystem):
    """Kills its own process before call number `kill_at`."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at

    def reach(self, call: str, path: AnyPath) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Told(dict[str, Callable[[Store], bool]]):
    """Promises that are written down as they are made."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def __setitem__(self, name: str, fact: Callable[[Store], bool]) -> None:
        super().__setitem__(name, fact)
        with open(self._path, "a") as told:
            told.write(f"{name}\n")


def live_and_die(root: Path, kill_at: int) -> bool:
    """Whether the child was killed; it tells each promise through a file as soon as it is made."""
    child = os.fork()
    if child == 0:
        life = SmallLife(root)
        life.facts = Told(root / "told")
        life.live(DiskStore(root / "store", files=DeadlyFileSystem(kill_at)))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def main(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    killed = 0
    for number in range(count):
        root = folder / f"killed-{number}"
        root.mkdir()
        (root / "told").touch()
        killed += live_and_die(root, rng.randrange(1, 150))
        live_and_die(root, rng.randrange(1, 60))
        store = DiskStore(root / "store")
        checked = SmallLife(root)
        checked.check(store)
        told = set((root / "told").read_text().split("\n"))
        if "release" in told:
            assert [r.name for r in store.releases()] == ["one"], f"seed {seed}, {number}"
        if "big" in told:
            assert is_held(store, FILES[0]), f"seed {seed}, {number}: a complete object was lost"
        # And life goes on.
        checked.live(store)
        checked.check(store)
        store.close()
    print("killed", killed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
