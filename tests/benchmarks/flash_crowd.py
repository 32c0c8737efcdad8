"""Everybody at once: peers of equal links fetch one release from one seed or three, and from each
other.

Real daemons in network namespaces, with uplinks and downlinks shaped. Nobody but the seeds' own
addresses is named to a peer: it finds the others through the seeds. All stay and seed. The last to
be done is held against the fluid bound, max(F/us, F/d, NF/(us + sum u)), which no swarm can beat
(Kumar and Ross 2006; a free rider counts among the N and gives no u); the links count headers and
the bound does not, so 4 % above it is the wire's own. libtorrent does the same in the same run,
where it is installed. Files lie in memory where it has room, since eight machines would have eight
disks.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from p2phub.control.client import ControlClient
from p2phub.paths import home as home_of
from tests.benchmarks.daemons import PROGRAM, Daemon, daemon
from tests.benchmarks.libtorrent import LibtorrentPeer, libtorrent_is_there
from tests.benchmarks.libtorrent_peer import make_torrent
from tests.benchmarks.measuring import MIB, Stopwatch, median, settle, write_safetensors
from tests.benchmarks.namespaces import MBIT, hosts, why_not

PEERS = 8
UP_MBIT, DOWN_MBIT = 100, 400
TENSOR_BYTES = 4 * MIB
MEMORY, MEMORY_BYTES_MIN = Path("/dev/shm"), 12 << 30
FREE_RIDER = (sys.executable, "-m", "tests.benchmarks.free_rider")


def _roomy_memory() -> Path | None:
    """Where files lie in memory, if there is room for three rounds of them."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
        return MEMORY
    return None


def bound_s(size_bytes: int, seeds: int, givers: int) -> float:
    """The least time in which all peers can be done, by the links alone."""
    up, down = UP_MBIT * MBIT, DOWN_MBIT * MBIT
    return max(
        size_bytes / (seeds * up), size_bytes / down, PEERS * size_bytes / ((seeds + givers) * up)
    )


def ours(home: Path, file: Path, seeds: int, is_riding: bool) -> dict[str, float]:
    """One flash crowd of real daemons."""
    size = file.stat().st_size
    with hosts(seeds + PEERS, up_mbit=UP_MBIT, down_mbit=DOWN_MBIT) as places, ExitStack() as stack:
        daemons = []
        for number, place in enumerate(places):
            program = FREE_RIDER if is_riding and number == len(places) - 1 else PROGRAM
            one = daemon(
                home / f"node-{number}", host=place.address, program=(*place.within, *program)
            )
            daemons.append(stack.enter_context(one))
        ids = {one.publish(file.parent)["content_id"] for one in daemons[:seeds]}
        assert len(ids) == 1, "one folder has one content id"
        settle()
        addresses = [one.address for one in daemons[:seeds]]
        sent_before = [place.sent_bytes for place in places]
        cpu_before = [one.cpu_s for one in daemons]
        times = _fetch_all(daemons[seeds:], ids.pop(), addresses)
        wire = [place.sent_bytes - n for place, n in zip(places, sent_before, strict=True)]
        cpu = [one.cpu_s - n for one, n in zip(daemons, cpu_before, strict=True)]
        sent = [_status(one)["sent_bytes"] for one in daemons]
    rider = {"free_rider_s": times[-1][1]} if is_riding else {}
    usable = sorted(usable for usable, _ in times)
    complete = sorted(complete for _, complete in times)
    givers = times[: PEERS - is_riding]
    return {
        **rider,
        "last_s": complete[-1],
        "last_giver_s": max(complete for _, complete in givers),
        "last_usable_s": usable[-1],
        "median_s": median(complete),
        "first_s": complete[0],
        "seeds_sent_copies": sum(sent[:seeds]) / size,
        "seeds_wire_copies": sum(wire[:seeds]) / size,
        "all_sent_copies": sum(sent) / size,
        "seed_cpu_s": median(cpu[:seeds]),
        "peer_cpu_s": median(cpu[seeds:]),
    }


def _fetch_all(
    peers: Sequence[Daemon], reference: str, addresses: Sequence[str]
) -> list[tuple[float, float]]:
    """All fetch at the same moment; seconds until each was usable, and complete."""
    start = threading.Barrier(len(peers))

    def fetch(one: Daemon) -> tuple[float, float]:
        with ControlClient.connect(home_of(one.home)) as client:
            start.wait()
            watch = Stopwatch()
            fetched: Any = client.call("fetch", reference=reference, peers=list(addresses))
            took_s = watch.wall_s
        return took_s - (fetched["seconds"] - fetched["usable_seconds"]), took_s

    with ThreadPoolExecutor(len(peers)) as threads:
        return list(threads.map(fetch, peers))


def _status(one: Daemon) -> Any:
    with ControlClient.connect(home_of(one.home)) as client:
        return client.call("status")


def libtorrent(home: Path, file: Path, seeds: int) -> dict[str, float]:
    """The same of libtorrent; each peer is told of the seeds and of the peers before it."""
    size = file.stat().st_size
    torrent = home / "torrent"
    make_torrent(file, torrent)
    settle()
    with (
        hosts(seeds + PEERS, up_mbit=UP_MBIT, down_mbit=DOWN_MBIT) as places,
        ExitStack() as running,
    ):
        peers = []
        for number, place in enumerate(places):
            folder = file.parent if number < seeds else home / f"libtorrent-{number}"
            folder.mkdir(exist_ok=True)
            earlier = [other.address for other in places[:number]] if number >= seeds else []
            peers.append(
                running.enter_context(
                    LibtorrentPeer(torrent, folder, place.address, earlier, place.within)
                )
            )
        for peer in peers:
            peer.wait_ready()
        for peer in peers[:seeds]:
            peer.begin()
            peer.seconds()
        for peer in peers[seeds:]:
            peer.begin()
        times = [peer.seconds() for peer in peers[seeds:]]
        for peer in peers:
            peer.end()
        sent = [peer.sent_bytes() for peer in peers]
    return {
        "last_s": max(times),
        "median_s": median(times),
        "seeds_sent_copies": sum(sent[:seeds]) / size,
        "all_sent_copies": sum(sent) / size,
    }


def run(
    folder: Path | None,
    rounds: int,
    size_bytes: int = 128 * MIB,
    *,
    seeds: int = 1,
    free_rider: bool = False,
    rival: bool = True,
) -> dict[str, object]:
    if reason := why_not():
        raise SystemExit(reason)
    folder = folder or _roomy_memory()
    has_libtorrent = rival and libtorrent_is_there()
    crowds: list[dict[str, float]] = []
    rivals: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
        content = Path(text, "content")
        content.mkdir()
        file = content / "model.safetensors"
        write_safetensors(file, size_bytes, 1, TENSOR_BYTES)
        size = file.stat().st_size
        for number in range(rounds):
            home = Path(text, f"round-{number}")
            home.mkdir()
            crowds.append(ours(home, file, seeds, free_rider))
            if has_libtorrent:
                rivals.append(libtorrent(home, file, seeds))
    bound = bound_s(size, seeds, PEERS - free_rider)
    figures = {name: median([crowd[name] for crowd in crowds]) for name in crowds[0]}
    result: dict[str, object] = {
        "seeds": seeds,
        "has_free_rider": free_rider,
        **figures,
        "bound_s": bound,
        "ratio": figures["last_s"] / bound,
        "usable_ratio": figures["last_usable_s"] / bound,
    }
    if rivals:
        for name in rivals[0]:
            result[f"libtorrent_{name}"] = median([one[name] for one in rivals])
        result["libtorrent_ratio"] = median([one["last_s"] for one in rivals]) / bound_s(
            size, seeds, PEERS
        )
    result["note"] = "" if has_libtorrent or not rival else "libtorrent is not installed"
    result["runs"] = {"ours": crowds, "libtorrent": rivals}
    return result
