"""A release of 20,000 small files beside one large file of as many bytes, between the same two
daemons.

The folders of small files are removed when all rounds are over, a gibibyte for each: ext4 takes no
inode that was freed in the last minutes, and looks at all of them for each new file: a round
would pay for the removal of the one before, two to three times its own price.

`files_alone_mb_s` is what the file system alone allows: one loop that makes such files and syncs.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.daemons import daemon
from tests.benchmarks.measuring import (
    MIB,
    Stopwatch,
    median,
    rate_mb_s,
    settle,
    write_safetensors,
)

FILES = 20_000
FILE_BYTES = 16 << 10


def write_files(folder: Path) -> None:
    rng = random.Random(8)
    for number in range(FILES):
        path = folder / f"{number // 500:03}" / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(FILE_BYTES))


def fetch_rates(home: Path, content: Path) -> tuple[float, float]:
    """MB/s until usable, and until complete."""
    size = sum(path.stat().st_size for path in content.rglob("*") if path.is_file())
    with daemon(home / "uploader") as uploader, daemon(home / "downloader") as downloader:
        published = uploader.publish(content)
        settle()
        fetched: dict[str, Any] = downloader.fetch(
            published["content_id"], uploader.address, home / "fetched"
        )
    return rate_mb_s(size, fetched["usable_seconds"]), rate_mb_s(size, fetched["seconds"])


def files_alone_rate(folder: Path) -> float:
    """MB/s of making the files in one loop, with nothing else, and of one sync for all."""
    data = random.Random(9).randbytes(FILE_BYTES)
    settle()
    watch = Stopwatch()
    for number in range(FILES):
        above = folder / f"{number // 500:03}"
        if number % 500 == 0:
            above.mkdir(parents=True)
        file = os.open(f"{above}/{number:05}.bin", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(file, data)
        os.close(file)
    os.sync()
    return rate_mb_s(FILES * FILE_BYTES, watch.wall_s)


@contextmanager
def _folder(above: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=above) as text:
        Path(text, "content").mkdir()
        yield Path(text)


def run(folder: Path | None, rounds: int) -> dict[str, object]:
    small: list[tuple[float, float]] = []
    large: list[tuple[float, float]] = []
    alone: list[float] = []
    with ExitStack() as kept:
        for _ in range(rounds):
            with _folder(folder) as home:
                write_safetensors(
                    home / "content" / "model.safetensors",
                    FILES * FILE_BYTES,
                    seed=9,
                    tensor_bytes=8 * MIB,
                )
                large.append(fetch_rates(home, home / "content"))
            home = kept.enter_context(_folder(folder))
            write_files(home / "content")
            small.append(fetch_rates(home, home / "content"))
            alone.append(files_alone_rate(home / "alone"))
    result: dict[str, object] = {}
    for index, name in enumerate(("usable", "complete")):
        small_rate = median([rate[index] for rate in small])
        large_rate = median([rate[index] for rate in large])
        result[f"{name}_mb_s"] = small_rate
        result[f"{name}_large_mb_s"] = large_rate
        result[f"{name}_ratio"] = small_rate / large_rate
    result["files_alone_mb_s"] = median(alone)
    return result
