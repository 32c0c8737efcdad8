"""A daemon that seeds a gibibyte and has nothing to do, beside a process that only imports what
it imports.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.daemons import daemon
from tests.benchmarks.measuring import MIB, rss_mb, write_safetensors

SETTLING_S = 60.0  # a new publisher's timestamp is signed, its keys are announced
WATCHED_S = 60.0
DEPENDENCIES = (
    "trio, libp2p, multiaddr, zeroconf, cryptography.x509, tuf.ngclient, msgpack, blake3, "
    "pyfastcdc, hypercorn.trio, packaging.version, sqlite3, ssl"
)


def imports_rss_mb() -> float:
    """The memory of a process that imports our dependencies and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import {DEPENDENCIES}\nprint(flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "\n", "a dependency is missing"
    memory = rss_mb(process.pid)
    process.communicate("\n")
    return memory


def run(folder: Path | None, rounds: int, size_bytes: int = 1024 * MIB) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
        source = Path(text, "content", "model.safetensors")
        source.parent.mkdir()
        write_safetensors(source, size_bytes, seed=1)
        with daemon(Path(text, "seed")) as seed:
            seed.publish(source.parent)
            time.sleep(SETTLING_S)
            before_s = seed.cpu_s
            time.sleep(WATCHED_S)
            used_s = seed.cpu_s - before_s
            memory = seed.rss_mb
    bound = imports_rss_mb()
    return {
        "core_percent": 100 * used_s / WATCHED_S,
        "rss_mb": memory,
        "imports_rss_mb": bound,
        "ratio": memory / bound,
    }
