"""A release of 20,000 small files beside one large file of as many bytes, between the same two
daemons.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.daemons import daemon
from tests.benchmarks.measuring import MIB, median, rate_mb_s, settle, write_safetensors

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


def run(folder: Path | None, rounds: int) -> dict[str, object]:
    small: list[tuple[float, float]] = []
    large: list[tuple[float, float]] = []
    for _ in range(rounds):
        for rates, is_small in ((large, False), (small, True)):
            with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
                content = Path(text, "content")
                content.mkdir()
                if is_small:
                    write_files(content)
                else:
                    write_safetensors(
                        content / "model.safetensors",
                        FILES * FILE_BYTES,
                        seed=9,
                        tensor_bytes=8 * MIB,
                    )
                rates.append(fetch_rates(Path(text), content))
    result: dict[str, object] = {}
    for index, name in enumerate(("usable", "complete")):
        small_rate = median([rate[index] for rate in small])
        large_rate = median([rate[index] for rate in large])
        result[f"{name}_mb_s"] = small_rate
        result[f"{name}_large_mb_s"] = large_rate
        result[f"{name}_ratio"] = small_rate / large_rate
    return result
