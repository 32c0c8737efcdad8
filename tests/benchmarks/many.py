"""A daemon that seeds 200 releases to 100 peers: how soon it answers commands meanwhile.

The peers are what of a node downloads: libp2p connections, sessions, lanes and machines of their
own, 50 in a process, over loopback. They leave out the DHT, keep what they fetch in memory and run
at the lowest priority, so that processors and disk are the seed's as far as can be. Each fetches
releases of its own, one after another, from the seed alone, verifies every chunk and forgets it. No
two fetch the same: they would pass nothing on, and a seed waits for that.

A command is asked on the control socket over a connection of its own, as the command line does; the
start of the command line itself, a Python process, is not counted.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

import trio

from p2phub.control.client import ControlClient
from p2phub.errors import P2phubError
from p2phub.net.base import PeerAddress, parse_peer_address
from p2phub.net.identity import load_or_create_identity
from p2phub.net.libp2p import Libp2pNetwork
from p2phub.node.channels import Channels
from p2phub.node.documents import Documents
from p2phub.node.downloads import Transfer, download_of
from p2phub.node.search import Search
from p2phub.node.trees import hold_chunk_lists, load_tree, page_lengths
from p2phub.node.watching import Watches
from p2phub.paths import Home
from p2phub.proto.content_id import parse_content_id
from p2phub.store import bits
from p2phub.store.memory import MemoryStore
from tests.benchmarks.daemons import Daemon, daemon
from tests.benchmarks.measuring import MIB, side, write_safetensors

RELEASES = 200
LARGE_BYTES = 3 * MIB
SMALL_FILES = 32
SMALL_BYTES = 16 << 10
PEERS = 100
PROCESSES = 2
STAGGER_S = 0.2  # between two peers' first connections
WATCHED_S = 30.0
COMMANDS = ("status", "releases", "peers")  # the methods behind `status`, `ls` and `peers`
PAUSE_S = 0.02  # between two commands
NO_TABLE = "/benchmark/kad/1.0.0"  # a table with nobody in it


def write_releases(folder: Path, count: int) -> list[Path]:
    rng = random.Random(4)
    releases = [folder / f"{number:03}" for number in range(count)]
    for number, release in enumerate(releases):
        release.mkdir(parents=True)
        write_safetensors(release / "model.safetensors", LARGE_BYTES, number, tensor_bytes=MIB)
        for file in range(SMALL_FILES):
            (release / f"{file:02}.bin").write_bytes(rng.randbytes(SMALL_BYTES))
    return releases


def share(seed: Daemon, releases: Iterable[Path]) -> list[str]:
    """Take folders in without signing them; their content ids."""
    with ControlClient.connect(Home(seed.home)) as control:
        return [
            str(
                control.call(
                    "take_in", tool="folder", folder=str(release), kind="model", keep=True
                )["content_id"]
            )
            for release in releases
        ]


def peers(
    pipe: Connection, folder: Path, content_ids: list[str], address: str, count: int, seed: int
) -> None:
    """So many peers, until told to stop; releases and bytes that they fetched."""
    os.nice(19)  # they would be on other machines: the processors are the seed's first
    rng = random.Random(seed)
    pipe.send(trio.run(_fetch_until_told, pipe, folder, content_ids, address, count, rng))


async def _fetch_until_told(
    pipe: Connection,
    folder: Path,
    content_ids: list[str],
    address: str,
    count: int,
    rng: random.Random,
) -> tuple[int, int, int]:
    fetched = [0, 0, 0]  # releases, bytes, downloads that failed
    are_warm = trio.Event()
    cold = set(range(count))  # peers that have fetched nothing yet

    async def keep_fetching(number: int) -> None:
        own = content_ids[number % len(content_ids) :: count]
        identity = load_or_create_identity(folder / f"peer-{number}")
        network = Libp2pNetwork(identity, ["/ip4/127.0.0.1/tcp/0"], kademlia_protocol=NO_TABLE)
        channels = Channels(network, None)
        async with trio.open_nursery() as nursery:
            await nursery.start(channels.run)
            await nursery.start(network.run)
            while True:
                try:
                    size = await _download(network, channels, rng.choice(own), address, rng)
                    fetched[0] += 1
                    fetched[1] += size
                    cold.discard(number)
                    if not cold:
                        are_warm.set()
                except* P2phubError:
                    fetched[2] += 1

    folder.mkdir()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(keep_fetching, number)
            await trio.sleep(STAGGER_S)
        await are_warm.wait()
        pipe.send("all have fetched one")
        await trio.to_thread.run_sync(pipe.recv)
        nursery.cancel_scope.cancel()
    return fetched[0], fetched[1], fetched[2]


class _SeedAlone(Search):
    """A search that ends with whom it was told of: the peers fetch from the seed, not from each
    other.
    """

    def add_connected(self) -> None:
        pass

    async def offer(self, address: PeerAddress) -> None:
        pass


async def _download(
    network: Libp2pNetwork, channels: Channels, content_id: str, address: str, rng: random.Random
) -> int:
    """Every chunk of one release from the peer at `address`, verified; its size in bytes."""
    store, digest = MemoryStore(), parse_content_id(content_id)
    search = _SeedAlone(network, keys=(), named=[parse_peer_address(address)])
    documents = Documents(network, store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(search.run)
        tree = await load_tree(digest, documents, store, search, content_id)
        await hold_chunk_lists(tree.files, documents, store, search, content_id)
        for file in tree.files:
            if file.has_record:
                store.open_part(file.object)
        pages = [
            (
                page,
                lengths,
                bytes(bits.of((i for i, n in enumerate(lengths) if not n), len(lengths))),
            )
            for page, lengths in page_lengths(store, tree, tree.files)
        ]
        transfer = Transfer(
            swarm=digest,
            machine=download_of(pages, random.Random(rng.getrandbits(64))),
            search=search,
            network=network,
            store=store,
            channels=channels,
            watches=Watches(store),
        )
        await transfer.run()
        nursery.cancel_scope.cancel()
    return tree.data_size


def latencies_ms(home: Path, seconds: float) -> dict[str, list[float]]:
    """How long each command took, one after another, and nobody else asking."""
    found: dict[str, list[float]] = {command: [] for command in COMMANDS}
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        for command in COMMANDS:
            began_s = time.perf_counter()
            with ControlClient.connect(Home(home)) as control:
                control.call(command)
            found[command].append(1000 * (time.perf_counter() - began_s))
            time.sleep(PAUSE_S)
    return found


def threads_count(pid: int) -> int:
    return len(list(Path("/proc", str(pid), "task").iterdir()))


def run(
    folder: Path | None,
    rounds: int,
    peers_count: int = PEERS,
    releases_count: int = RELEASES,
    watched_s: float = WATCHED_S,
) -> dict[str, object]:
    half_count = peers_count // PROCESSES
    with (
        tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text,
        daemon(Path(text, "seed")) as seed,
    ):
        home = Path(text)
        content_ids = share(seed, write_releases(home / "content", releases_count))
        alone = latencies_ms(seed.home, 3.0)
        with (
            side(peers, home / "one", content_ids[::2], seed.address, half_count, 1) as one,
            side(peers, home / "other", content_ids[1::2], seed.address, half_count, 2) as other,
        ):
            sides = (one, other)
            for half in sides:
                half.receive()
            most_threads = [0]
            is_over = threading.Event()

            def watch() -> None:
                while not is_over.wait(0.2):
                    most_threads[0] = max(most_threads[0], threads_count(seed.process.pid))

            watching = threading.Thread(target=watch)
            watching.start()
            before, cpu_s = _status(seed), seed.cpu_s
            found = latencies_ms(seed.home, watched_s)
            after, used_s = _status(seed), seed.cpu_s - cpu_s
            is_over.set()
            watching.join()
            peak_rss_mb = seed.peak_rss_mb
            for half in sides:
                half.pipe.send("stop")
            totals = [half.receive() for half in sides]
    every = sorted(value for values in found.values() for value in values)
    result: dict[str, object] = {
        "releases": releases_count,
        "peers": peers_count,
        "connected": after["peers"],
        "fetched": sum(total[0] for total in totals),
        "failed": sum(total[2] for total in totals),
        "sent_mb_s": (after["sent_bytes"] - before["sent_bytes"]) / 1e6 / watched_s,
        "core_percent": 100 * used_s / watched_s,
        "threads": most_threads[0],
        "peak_rss_mb": peak_rss_mb,
        "commands": len(every),
        "median_ms": statistics.median(every),
        "p99_ms": every[int(0.99 * len(every))],
        "worst_ms": every[-1],
    }
    for command, values in found.items():
        result[f"{command}_median_ms"] = statistics.median(values)
        result[f"{command}_p99_ms"] = sorted(values)[int(0.99 * len(values))]
        result[f"{command}_worst_ms"] = max(values)
        result[f"{command}_alone_ms"] = statistics.median(alone[command])
    return result


def _status(seed: Daemon) -> dict[str, int]:
    with ControlClient.connect(Home(seed.home)) as control:
        return dict(control.call("status"))
