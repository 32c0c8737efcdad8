"""Making a gibibyte shareable, beside libtorrent v2, hf_xet, and bare hashing and
cutting.

Four files of 256 MiB, once safetensors and once plain. Ours reads, cuts, hashes (BLAKE3 of each
chunk, SHA-256 of each file), stores the chunk lists, takes the files and syncs; the bound reads,
cuts and hashes, in as many threads. hf_xet cuts and hashes, as before an upload to the Hub.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from pyfastcdc import FastCDC

from p2phub.core.content.release import ReleaseTerms
from p2phub.digest import digest
from p2phub.proto.limits import CDC_BYTES_AVERAGE, CDC_BYTES_MAX, CDC_BYTES_MIN
from p2phub.store.disk import DiskStore
from p2phub.store.ingest import ingest_folder
from tests.benchmarks.libtorrent import libtorrent_is_there
from tests.benchmarks.measuring import (
    MIB,
    Stopwatch,
    median,
    rate_mb_s,
    settle,
    side,
    warm,
    write_random_file,
    write_safetensors,
)

FILES = 4
BLOCK_BYTES = 8 * MIB


def ours(pipe: Connection, content: str, store_folder: str) -> None:
    store = DiskStore(Path(store_folder))
    watch = Stopwatch()
    result = ingest_folder(Path(content), ReleaseTerms(), put=store.put)
    store.take(result.sources)
    pipe.send(watch.wall_s)
    store.close()


def bound(pipe: Connection, content: str, is_cut: bool) -> None:
    watch = Stopwatch()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(
            lambda path: _hash_file(path, is_cut), sorted(Path(content).iterdir())
        ):
            pass
    pipe.send(watch.wall_s)


def _hash_file(path: Path, is_cut: bool) -> None:
    cutter = FastCDC(
        CDC_BYTES_AVERAGE,
        min_size=CDC_BYTES_MIN,
        max_size=CDC_BYTES_MAX,
        normalized_chunking=1,
        seed=0,
    )
    whole = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            block = buffer[:count]
            whole.update(block)
            if is_cut:
                for chunk in cutter.cut_buf(block):
                    digest(chunk.data)
            else:
                for start in range(0, count, MIB):
                    digest(block[start : start + MIB])


def libtorrent(pipe: Connection, content: str) -> None:
    """`create_torrent` with v2 hashes alone."""
    library = import_module("libtorrent")
    watch = Stopwatch()
    files = library.file_storage()
    library.add_files(files, content)
    torrent = library.create_torrent(files, flags=library.create_torrent.v2_only)
    library.set_piece_hashes(torrent, str(Path(content).parent))
    torrent.generate()
    pipe.send(watch.wall_s)


def hf_xet(pipe: Connection, content: str) -> None:
    library = import_module("hf_xet")
    paths = [str(path) for path in sorted(Path(content).iterdir())]
    watch = Stopwatch()
    library.hash_files(paths)
    pipe.send(watch.wall_s)


def seconds(target: object, *arguments: object) -> float:
    settle()
    with side(target, *arguments) as one:  # type: ignore[arg-type]
        took_s: float = one.receive()
    return took_s


def run(folder: Path | None, rounds: int, size_bytes: int = 1024 * MIB) -> dict[str, object]:
    has_libtorrent = libtorrent_is_there()
    result: dict[str, object] = {}
    for kind, write in (("tensors", write_safetensors), ("plain", write_random_file)):
        rates: dict[str, list[float]] = {"ours": [], "bound": [], "hf_xet": [], "libtorrent": []}
        with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
            content = Path(text, "content")
            content.mkdir()
            suffix = ".safetensors" if kind == "tensors" else ".bin"
            for number in range(FILES):
                write(content / f"file-{number}{suffix}", size_bytes // FILES, seed=number)
            size = sum(path.stat().st_size for path in content.iterdir())
            for number in range(rounds):
                for path in content.iterdir():
                    warm(path)
                store = str(Path(text, f"store-{number}"))
                rates["ours"].append(rate_mb_s(size, seconds(ours, str(content), store)))
                rates["bound"].append(
                    rate_mb_s(size, seconds(bound, str(content), kind == "plain"))
                )
                rates["hf_xet"].append(rate_mb_s(size, seconds(hf_xet, str(content))))
                if has_libtorrent:
                    rates["libtorrent"].append(rate_mb_s(size, seconds(libtorrent, str(content))))
        result[f"{kind}_mb_s"] = median(rates["ours"])
        result[f"{kind}_bound_mb_s"] = median(rates["bound"])
        result[f"{kind}_ratio"] = median(rates["ours"]) / median(rates["bound"])
        result[f"{kind}_hf_xet_mb_s"] = median(rates["hf_xet"])
        if has_libtorrent:
            result[f"{kind}_libtorrent_mb_s"] = median(rates["libtorrent"])
            result[f"{kind}_libtorrent_ratio"] = median(rates["ours"]) / median(rates["libtorrent"])
        result[f"{kind}_runs_mb_s"] = rates
    result["note"] = "" if has_libtorrent else "libtorrent is not installed: no rival was measured"
    return result
