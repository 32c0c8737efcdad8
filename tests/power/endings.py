"""A process that lets children live in homes on a disk and ends each life at a random instant, by a
power cut or SIGKILL; then it looks what is left, and the next child goes on from there.

Run as a script, in namespaces of its own, so that no mount and no child outlives it:
    FOLDER DISK ENDING COUNT SEED SYNCS
DISK: ext4, xfs or none. ENDING: cut or kill. SYNCS: 1, or 0 for a store whose syncs do nothing.
Prints one JSON object. One thread, so that it may fork.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from p2phub.errors import P2phubError
from p2phub.store.file_system import AnyPath, FileSystem
from tests.power.disks import LoopDisk, cut_power, mounted
from tests.power.life import Files, Generation, Home, Life, Promises, Unwritable
from tests.trust.builders import Publisher

LIVES_PER_HOME = 8  # endings that one home lives through before a new one is begun
VERSIONS = 24  # of signed metadata
# From when on older promises may be broken.
INTENTS = ("begin", "removing", "collecting", "rotting")


class EndingFileSystem(FileSystem):
    """Calls `end` before call number `end_at`; 0 never does."""

    def __init__(self, end_at: int, end: Callable[[], None], *, syncs: bool = True) -> None:
        self.calls = 0
        self._end_at = end_at
        self._end = end
        self._syncs = syncs

    def reach(self, call: str, path: AnyPath) -> None:
        self.calls += 1
        if self.calls == self._end_at:
            self._end()

    def sync_data(self, file: int, path: AnyPath) -> None:
        if self._syncs:
            super().sync_data(file, path)

    def sync(self, file: int, path: AnyPath) -> None:
        if self._syncs:
            super().sync(file, path)

    def sync_folder(self, path: AnyPath) -> None:
        if self._syncs:
            super().sync_folder(path)

    def sync_file_system(self, file: int, path: AnyPath) -> None:
        if self._syncs:
            super().sync_file_system(file, path)


def live(
    root: Path, publisher_id: str, number: int, versions: list[Files], old: list[int], told: int,
    files: EndingFileSystem,
) -> None:  # fmt: skip
    """The child: tells each promise through the pipe `told`, and what it did not expect."""

    def tell(what: str, number: int) -> None:
        os.write(told, f"{what} {number}\n".encode())

    try:
        home = Home(root, publisher_id, files)
        try:
            Life(home, Generation(number), tell).live(versions, old)
        finally:
            home.close()
        tell("calls", files.calls)
    except (P2phubError, Unwritable) as error:
        os.write(told, f"refused {type(error).__name__}\n".encode())
    except BaseException:
        os.write(told, b"unhandled\n" + traceback.format_exc().encode())


class Endings:
    """Lives on one disk, one after another."""

    def __init__(
        self, folder: Path, disk: LoopDisk | None, *, is_cut: bool, seed: int, syncs: bool
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._is_cut = is_cut
        self._syncs = syncs
        self._rng = random.Random(seed)
        self._publisher_id, self._versions = published(folder / "publisher")
        self._life_s = 0.3  # how long a life takes, as seen so far
        self._calls = 150  # and how many calls it makes
        self.lives = 0
        self.ended = 0  # lives that were cut off, and not merely over
        self.faults: list[str] = []

    def run(self, count: int) -> None:
        number = 0
        for home in range((count + LIVES_PER_HOME - 1) // LIVES_PER_HOME):
            root = (self._disk.point if self._disk else self._folder) / f"home-{home}"
            root.mkdir()
            os.sync()
            promises = Promises()
            for _ in range(min(LIVES_PER_HOME, count - home * LIVES_PER_HOME)):
                number += 1
                self.lives += 1
                faults = self._one(root, number, promises)
                self.faults += [f"{number}: {fault}" for fault in faults]
                if faults:
                    break  # what follows would be the same fault again
            shutil.rmtree(root)

    def _one(self, root: Path, number: int, promises: Promises) -> list[str]:
        """Live, end, look. What is wrong."""
        lines, unhandled = self._end_one(root, number, promises.kept())
        is_over = False
        for line in lines:
            what, _, of = line.partition(" ")
            if what == "cut":
                # xfs says of a folder that it was synced also when it was cut off just before.
                is_over = True
            elif what == "calls":
                self._calls = int(of)
            elif of and (not is_over or what in INTENTS):
                promises.told(what, int(of))
        self.ended += not any(line.startswith("calls ") for line in lines)
        if self._disk is not None and self._is_cut:
            self._disk.unmount()
            self._disk.mount()
        faults = [f"unhandled: {unhandled}"] if unhandled else []
        try:
            home = Home(root, self._publisher_id)
        except Exception as error:
            return [*faults, f"failed start: {error!r}"]
        try:
            return faults + promises.check(home)
        finally:
            home.close()

    def _end_one(self, root: Path, number: int, old: list[int]) -> tuple[list[str], str]:
        """The child's life, ended at a random call or a random instant: what it told."""
        is_timed = self._rng.random() < 0.5
        end_at = 0 if is_timed else self._rng.randint(1, self._calls)
        wait_s = self._rng.uniform(0, self._life_s)
        power = self._disk.open() if self._disk is not None else -1
        reading, told = os.pipe()
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(reading)
            end = self._end_here(power, told)
            files = EndingFileSystem(end_at, end, syncs=self._syncs)
            live(root, self._publisher_id, number, self._versions, old, told, files)
            os._exit(0)
        os.close(told)
        text = ""
        if is_timed:
            time.sleep(wait_s)
            if self._is_cut:
                text = _read_now(reading) + "cut\n"
                cut_power(power)
            else:
                os.kill(child, signal.SIGKILL)
        with open(reading) as lines:
            text += lines.read()  # until the child is gone
        os.waitpid(child, 0)
        if "calls " in text:
            self._life_s = 0.5 * self._life_s + 0.5 * (time.monotonic() - begun)
        if power >= 0:
            if self._is_cut:
                cut_power(power)  # a life that was over is followed by a cut too
            os.close(power)
        known, _, unhandled = text.partition("unhandled\n")
        return known.split("\n")[:-1], unhandled

    def _end_here(self, power: int, told: int) -> Callable[[], None]:
        def cut() -> None:
            os.write(told, b"cut\n")
            cut_power(power)

        return cut if self._is_cut else lambda: os.kill(os.getpid(), signal.SIGKILL)


def _read_now(pipe: int) -> str:
    """The lines that are in a pipe, without waiting for more. A line is written at once."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1 << 16).decode()
    except BlockingIOError:
        return ""
    finally:
        os.set_blocking(pipe, True)


def published(folder: Path) -> tuple[str, list[Files]]:
    """A publisher's id and its files after each of its releases."""
    publisher = Publisher(folder)
    versions = []
    for number in range(VERSIONS):
        publisher.publish(version=f"1.{number}")
        versions.append(publisher.files())
    return publisher.id, versions


@contextmanager
def place(folder: Path, kind: str) -> Iterator[LoopDisk | None]:
    if kind == "none":
        yield None
        return
    with mounted(kind, folder) as disk:
        yield disk


def main(words: list[str]) -> None:
    folder, kind, ending, count, seed, syncs = words
    with place(Path(folder), kind) as disk:
        endings = Endings(
            Path(folder), disk, is_cut=ending == "cut", seed=int(seed), syncs=syncs == "1"
        )
        endings.run(int(count))
    print(json.dumps({"lives": endings.lives, "ended": endings.ended, "faults": endings.faults}))


if __name__ == "__main__":
    main(sys.argv[1:])
