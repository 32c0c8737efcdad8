"""Random mebibytes of a remote gibibyte, from a running daemon that knows the peer, fetching no
more than it must.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from p2phub.control.client import ControlClient
from p2phub.paths import home as home_of
from tests.benchmarks.daemons import daemon
from tests.benchmarks.measuring import MIB, Stopwatch, median, write_random_file, write_safetensors

RANGE_BYTES = MIB
READS = 30


def read_ranges(home: Path, source: Path, seed: int) -> dict[str, object]:
    """Milliseconds of each read of a random range of one published file."""
    content = source.parent
    size = source.stat().st_size
    rng = random.Random(seed)
    with daemon(home / "uploader") as uploader, daemon(home / "downloader") as downloader:
        published = uploader.publish(content)
        downloader.run("connect", uploader.address)
        times_ms: list[float] = []
        first_ms = 0.0
        with source.open("rb") as file, ControlClient.connect(home_of(downloader.home)) as client:
            for number in range(READS + 1):
                start = rng.randrange(size - RANGE_BYTES)
                got = bytearray()
                watch = Stopwatch()
                client.call(
                    "read",
                    on_data=got.extend,
                    reference=published["content_id"],
                    path=source.name,
                    start=start,
                    stop=start + RANGE_BYTES,
                    peers=[uploader.address],
                )
                took_ms = watch.wall_s * 1000
                file.seek(start)
                assert file.read(RANGE_BYTES) == got, "the wrong bytes came"
                if number:
                    times_ms.append(took_ms)
                else:
                    first_ms = took_ms  # It also brings the list of chunks.
    return {
        "median_ms": median(times_ms),
        "slowest_ms": max(times_ms),
        "first_ms": first_ms,
    }


def run(folder: Path | None, rounds: int, size_bytes: int = 1024 * MIB) -> dict[str, object]:
    result: dict[str, object] = {}
    for kind, write in (("safetensors", write_safetensors), ("plain", write_random_file)):
        with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
            source = Path(text, "content", f"file.{kind}")
            source.parent.mkdir()
            write(source, size_bytes, seed=3)
            figures = read_ranges(Path(text), source, seed=4)
            result.update({f"{kind}_{name}": value for name, value in figures.items()})
    return result
