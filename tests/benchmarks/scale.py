"""A dataset of 100,000 files, a model of 1 TB and other data of 1 TB: published, listed, fetched in
part and removed; how large the index is, and how soon a daemon that holds 2 TB is ready.

The 100,000 files are real. Of the two terabytes nothing is hashed, which would take this machine
half an hour: their files are sparse, the names of their chunks are random numbers but for the first
64 MiB of each release, which are real, and so are records, segments and manifests. The store takes
them through its own interface, exactly as an ingest hands them over; what follows is a daemon's
usual work.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from array import array
from pathlib import Path

from p2phub.core.content.cutting import cut_segments
from p2phub.core.content.release import ReleaseTerms, release_documents
from p2phub.digest import DIGEST_BYTES, digest
from p2phub.paths import Home
from p2phub.proto.content import CDC_RULE, TENSOR_RULE, ObjectRecord, SegmentRef
from p2phub.proto.content_id import content_id_text
from p2phub.proto.limits import CDC_BYTES_AVERAGE
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import Release, SourceFile
from p2phub.store.disk import DiskStore
from p2phub.store.stamps import FileStamp
from tests.benchmarks.daemons import Daemon, daemon
from tests.benchmarks.measuring import MB, MIB

FILES = 100_000
TB = 1_000_000_000_000
REAL_BYTES = 64 * MIB  # at the start of the first file: they can be fetched


def write_dataset(folder: Path, count: int) -> int:
    """Files of 100 to 1,500 bytes, 500 in a folder; how many bytes."""
    rng, size = random.Random(8), 0
    for number in range(count):
        path = folder / f"{number // 500:03}" / f"{number:06}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        size += path.write_bytes(rng.randbytes(rng.randrange(100, 1500)))
    return size


def write_large(
    folder: Path, store: DiskStore, rule: str, size_bytes: int, file_bytes: int, seed: int
) -> str:
    """Have a store hold a release of sparse files of `file_bytes` each; its content id."""
    folder.mkdir(parents=True)
    chunk_bytes = MIB if rule == TENSOR_RULE else CDC_BYTES_AVERAGE
    records = []
    for number in range(size_bytes // file_bytes):
        path = folder / f"part-{number:05}.bin"
        real = random.Random(seed).randbytes(REAL_BYTES) if not number else b""
        with open(path, "wb") as file:
            file.write(real)
            file.truncate(file_bytes)
        names = b"".join(
            digest(real[start : start + chunk_bytes]) for start in range(0, len(real), chunk_bytes)
        )
        count = -(-file_bytes // chunk_bytes)
        names += os.urandom(DIGEST_BYTES * count - len(names))
        lengths = array("I", [chunk_bytes]) * count
        lengths[-1] = file_bytes - chunk_bytes * (count - 1)
        references, documents = [], []
        for segment in cut_segments(names, lengths):
            encoded = segment.encode()
            documents.append(encoded)
            references.append(
                SegmentRef(digest(encoded), len(encoded), len(segment), segment.data_size)
            )
        claim = os.urandom(32)
        object_record = ObjectRecord(rule, file_bytes, claim, tuple(references))
        documents.append(object_record.encode())
        record = FileRecord(path.name, file_bytes, claim, object_record.digest, count)
        stamp = FileStamp.of(path.stat())
        store.take([SourceFile(path, stamp, record)], documents)
        records.append(record)
    release = release_documents(records, ReleaseTerms(kind="model", license="MIT"))
    store.put([*release.pages, release.root])
    store.add_release(Release(release.digest, origin="published", added_s=time.time()))
    return content_id_text(release.digest)


def index_mb(home: Path) -> float:
    """The index with what is not yet folded into it."""
    index = Home(home).store / "index.db"
    return sum(path.stat().st_size for path in index.parent.glob(index.name + "*")) / MB


class Watch:
    """Seconds of one step after another."""

    def __init__(self, figures: dict[str, object], prefix: str) -> None:
        self._figures, self._prefix = figures, prefix
        self._since_s = time.perf_counter()

    def note(self, step: str) -> None:
        now_s = time.perf_counter()
        self._figures[f"{self._prefix}_{step}_s"] = now_s - self._since_s
        self._since_s = time.perf_counter()


def measure_dataset(folder: Path, count: int) -> dict[str, object]:
    """A dataset of many small files between two daemons."""
    figures: dict[str, object] = {"dataset_files": count}
    source = folder / "dataset"
    figures["dataset_mb"] = write_dataset(source, count) / MB
    with daemon(folder / "a") as a, daemon(folder / "b") as b:
        watch = Watch(figures, "dataset")
        published = a.publish(source)
        watch.note("publish")
        a.run("ls")
        watch.note("list")
        a.run("show", published["content_id"])
        watch.note("show")
        arguments = ("--peer", a.address, "-o", str(folder / "out"), "--include", "01*/*")
        fetched = b.run("fetch", published["content_id"], *arguments)
        watch.note("fetch_part")
        figures["dataset_part_files"] = fetched["file_count"]
        figures["dataset_index_mb"] = index_mb(folder / "a")
        watch = Watch(figures, "dataset")
        a.run("rm", published["content_id"])
        watch.note("remove")
        figures["dataset_peak_mb"] = a.peak_rss_mb
    return figures


def measure_large(folder: Path, size_bytes: int) -> dict[str, object]:
    """Two releases of `size_bytes`, one cut as tensors are and one as other files."""
    figures: dict[str, object] = {"large_tb": size_bytes / TB}
    home = folder / "large"
    home.mkdir(mode=0o700)
    ids = []
    for rule, name in ((TENSOR_RULE, "tensors"), (CDC_RULE, "plain")):
        before_mb = index_mb(home)
        store = DiskStore(Home(home).store)
        watch = Watch(figures, name)
        file_bytes = size_bytes // 200
        ids.append(write_large(folder / name, store, rule, size_bytes, file_bytes, len(ids)))
        watch.note("take")
        store.close()
        figures[f"{name}_index_mb"] = index_mb(home) - before_mb
    watch = Watch(figures, "large")
    with daemon(home) as a, daemon(folder / "reader") as b:
        figures["ready_s"], figures["ready_rss_mb"] = a.ready_s, a.rss_mb
        figures["ready_empty_s"] = b.ready_s
        watch = Watch(figures, "large")
        a.run("ls")
        watch.note("list")
        for id, name in zip(ids, ("tensors", "plain"), strict=True):
            figures |= measure_part(a, b, id, name)
        watch = Watch(figures, "large")
        a.run("rm", ids[0])
        a.run("rm", ids[1])
        watch.note("remove")
        figures["large_peak_mb"] = a.peak_rss_mb
    return figures


def measure_part(a: Daemon, b: Daemon, id: str, name: str) -> dict[str, object]:
    """A range of a release that one daemon holds, read by another."""
    figures: dict[str, object] = {}
    watch = Watch(figures, name)
    b.run("show", id, "--peer", a.address)
    watch.note("show")
    text = b.cat(id, "part-00000.bin", MIB, 33 * MIB - 1, a.address)
    watch.note("read_part")
    real = random.Random(0 if name == "tensors" else 1).randbytes(REAL_BYTES)
    assert text == real[MIB : 33 * MIB]
    return figures


def run(folder: Path | None, rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
        return measure_dataset(Path(text), FILES) | measure_large(Path(text), TB)
