"""What every measurement needs: processes that report, a settled disk, medians, peak memory.

Runs of ours and of the bound alternate, so that both meet the same weather; medians are compared,
and all values are kept.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import random
import statistics
import struct
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MB = 1_000_000
MIB = 1 << 20
AT_HAND_BYTES = 2048 * MIB  # of memory before each run: a gibibyte of files, and the rest
RUN_TIMEOUT_S = 120.0  # of one run of one process: a hundred times what it takes

_spawning = multiprocessing.get_context("spawn")  # A fork would share the parent's peak memory.


@dataclass(frozen=True)
class Side:
    """A process of a measurement, and the pipe to it."""

    process: Any
    pipe: Connection

    def receive(self) -> Any:
        """What it says next. Raises RuntimeError if it failed or says nothing in time."""
        if not self.pipe.poll(RUN_TIMEOUT_S):
            raise RuntimeError(f"{self.process.name} says nothing")
        try:
            word = self.pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.process.name} died") from None
        if isinstance(word, _Failure):
            raise RuntimeError(f"{self.process.name} failed:\n{word.traceback}")
        return word


@dataclass(frozen=True)
class _Failure:
    traceback: str


@contextmanager
def side(target: Callable[..., None], *arguments: object) -> Iterator[Side]:
    """`target(pipe, *arguments)` in a process of its own, which is gone at the end of the block."""
    ours, theirs = _spawning.Pipe()
    process = _spawning.Process(
        target=_report, args=(target, theirs, *arguments), name=target.__name__, daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield Side(process, ours)
    finally:
        process.join(5.0)
        if process.is_alive():
            process.kill()
            process.join()
        ours.close()


def _report(target: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    try:
        target(pipe, *arguments)
    except BaseException:
        pipe.send(_Failure(traceback.format_exc()))
        raise


def write_random_file(path: Path, size_bytes: int, seed: int) -> None:
    """A file that neither compresses nor repeats; the same for the same seed."""
    rng = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(rng.randbytes(MIB))
        file.write(rng.randbytes(size_bytes % MIB))


def write_safetensors(path: Path, size_bytes: int, seed: int, tensor_bytes: int = 64 * MIB) -> None:
    """A valid safetensors file of about `size_bytes`, with random weights."""
    rng = random.Random(seed)
    count = max(1, size_bytes // tensor_bytes)
    header = json.dumps(
        {
            f"layers.{i}.weight": {
                "dtype": "U8",
                "shape": [tensor_bytes],
                "data_offsets": [i * tensor_bytes, (i + 1) * tensor_bytes],
            }
            for i in range(count)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _ in range(count * tensor_bytes // MIB):
            file.write(rng.randbytes(MIB))


def settle() -> None:
    """Let the disk finish what former runs left to it, and have memory for the next.

    A virtual machine gives memory that is free for seconds back to its host, and to fetch it anew
    takes a second per GiB: whoever ran after a pause would pay for it. So it is touched before
    each run, of ours and of others, and the machine has it free and at hand.
    """
    os.sync()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, AT_HAND_BYTES, flags=flags).close()


def warm(path: Path) -> None:
    """Read a file once, so that it lies in the page cache."""
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def peak_rss_mb(pid: int | str = "self") -> float:
    """The most memory that a process has held so far (VmHWM)."""
    return _memory_mb(pid, "VmHWM:")


def rss_mb(pid: int | str = "self") -> float:
    """The memory that a process holds now (VmRSS)."""
    return _memory_mb(pid, "VmRSS:")


def _memory_mb(pid: int | str, row: str) -> float:
    for line in Path("/proc", str(pid), "status").read_text().splitlines():
        if line.startswith(row):
            return int(line.split()[1]) * 1024 / MB
    raise RuntimeError(f"no {row} in the status of process {pid}")


def cpu_of_s(pid: int) -> float:
    """Processor time of another process so far, in and for it."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_s() -> float:
    """Processor time of this process so far, in and for it."""
    times = os.times()
    return times.user + times.system


def rate_mb_s(size_bytes: int, seconds: float) -> float:
    return size_bytes / MB / seconds


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


class Stopwatch:
    """Seconds of wall clock and of processor since it was made."""

    def __init__(self) -> None:
        self._began_s, self._began_cpu_s = time.perf_counter(), cpu_s()

    @property
    def wall_s(self) -> float:
        return time.perf_counter() - self._began_s

    @property
    def cpu_s(self) -> float:
        return cpu_s() - self._began_cpu_s
