"""An upload limit of 1 MB/s on a real lane: the most and the least that goes over the wire in any
2 s, and how soon a limit that is lifted lets go.

Two daemons in network namespaces, whose counters tell what went out, headers taken off; needs root.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

from tests.benchmarks.daemons import PROGRAM, Daemon, daemon
from tests.benchmarks.measuring import MIB, write_safetensors
from tests.benchmarks.namespaces import hosts, why_not

RATE = 1_000_000  # bytes a second
HEADERS_BYTES = 66  # of a packet: Ethernet, IP, TCP with time stamps
WINDOW_S = 2.0
STARTING_S = 3.0  # not looked at: a connection is made
WATCHED_S = 15.0
SAMPLE_S = 0.05
SIZE_BYTES = 48 * MIB
LINK_MBIT = 1000

Samples = list[tuple[float, int]]  # seconds, bytes sent so far


def sent_bytes(one: Daemon) -> int:
    """What left a daemon's namespace so far, without headers."""
    for line in Path("/proc", str(one.process.pid), "net", "dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "eth":
            size_bytes, packets = counters.split()[8:10]
            return int(size_bytes) - HEADERS_BYTES * int(packets)
    raise RuntimeError("no eth in the namespace")


def sample(one: Daemon, seconds: float) -> Samples:
    samples: Samples = []
    began_s = time.perf_counter()
    while (now_s := time.perf_counter() - began_s) < seconds:
        samples.append((now_s, sent_bytes(one)))
        time.sleep(SAMPLE_S)
    return samples


def shares(samples: Samples) -> list[float]:
    """What went out in each stretch of WINDOW_S, in shares of what the limit allows."""
    found = []
    for start_s, start_bytes in samples:
        end = next(((s, b) for s, b in samples if s >= start_s + WINDOW_S), None)
        if start_s >= STARTING_S and end is not None:
            found.append((end[1] - start_bytes) / (end[0] - start_s) / RATE)
    return found


def run(folder: Path | None, rounds: int) -> dict[str, object]:
    if reason := why_not():
        raise SystemExit(reason)
    with (
        tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text,
        hosts(2, up_mbit=LINK_MBIT, down_mbit=LINK_MBIT) as (here, there),
    ):
        home = Path(text)
        content = home / "content"
        content.mkdir()
        write_safetensors(content / "model.safetensors", SIZE_BYTES, seed=1, tensor_bytes=4 * MIB)
        with (
            daemon(home / "up", host=here.address, program=(*here.within, *PROGRAM)) as uploader,
            daemon(home / "down", host=there.address, program=(*there.within, *PROGRAM)) as other,
        ):
            published = uploader.publish(content)
            uploader.run("limit", "--up", str(RATE))
            fetching = threading.Thread(
                target=other.fetch, args=(published["content_id"], uploader.address)
            )
            fetching.start()
            found = shares(sample(uploader, WATCHED_S))
            uploader.run("limit", "--up", "off")
            lifted_s = time.perf_counter()
            fetching.join()
            rest_s = time.perf_counter() - lifted_s
    return {
        "most_share": max(found),
        "least_share": min(found),
        "windows": len(found),
        "rest_mib": SIZE_BYTES / MIB - WATCHED_S * RATE / MIB,
        "rest_after_lifting_s": rest_s,
    }
