"""All measurements as one table, the README's: what was done, ours, what stood beside it in the
same run, and how the two compare.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]  # Any: what a measurement found is text, numbers, lists and None

HEAD = "| work | ours | beside it, in the same run | ratio |\n|---|---|---|---|"


def one_to_one(figures: Figures) -> list[str]:
    curl = figures["curl_mb_s"]
    rival = "" if curl is None else f"; curl from nginx {curl:.0f} MB/s, nothing verified"
    torrent = figures["libtorrent_mb_s"]
    rival += "" if torrent is None else f"; libtorrent v2 {torrent:.0f} MB/s, not encrypted"
    return [
        _row(
            "1 GiB from node to node: encrypted, verified, readable",
            f"{figures['usable_mb_s']:.0f} MB/s",
            f"bare TLS copy in Python {figures['bound_mb_s']:.0f} MB/s{rival}",
            figures["ratio"],
        ),
        _row(
            "the same, SHA-256 recomputed and synced",
            f"{figures['complete_mb_s']:.0f} MB/s",
            f"bare copy that does the same {figures['complete_bound_mb_s']:.0f} MB/s",
            figures["complete_ratio"],
        ),
    ]


def ingest(figures: Figures) -> list[str]:
    rows = []
    for kind, name in (("tensors", "safetensors"), ("plain", "other files")):
        torrent = figures.get(f"{kind}_libtorrent_mb_s")
        rival = f"; hf_xet, without SHA-256, {figures[f'{kind}_hf_xet_mb_s']:.0f} MB/s"
        rival += "" if torrent is None else f"; libtorrent v2 {torrent:.0f} MB/s"
        rows.append(
            _row(
                f"make 1 GiB of {name} shareable",
                f"{figures[f'{kind}_mb_s']:.0f} MB/s",
                f"hashing and cutting alone {figures[f'{kind}_bound_mb_s']:.0f} MB/s{rival}",
                figures[f"{kind}_ratio"],
            )
        )
    return rows


def flash_crowd(figures: Figures) -> list[str]:
    seeds = "1 seed" if figures["seeds"] == 1 else f"{figures['seeds']} seeds"
    riding = ", 1 gives nothing" if figures["has_free_rider"] else ""
    torrent = figures.get("libtorrent_last_s")
    fair = " (nobody rides free)" if riding else ""
    rival = "" if torrent is None else f"; libtorrent {torrent:.1f} s{fair}"
    return [
        _row(
            f"flash crowd, 128 MiB, {seeds}, 8 peers{riding}, 100/400 Mbit/s: last one done",
            f"{figures['last_s']:.1f} s, {figures['seeds_sent_copies']:.2f} copies from seeds",
            f"fluid bound {figures['bound_s']:.1f} s{rival}",
            figures["ratio"],
        )
    ]


def update(figures: Figures) -> list[str]:
    return [
        _row(
            "second version, 5 % overwritten and 1 % inserted: bytes from peers",
            f"{figures['plain_percent']:.1f} %",
            "new bytes 6 %",
            figures["plain_percent"] / 6,
        ),
        _row(
            "second version, tensors changed: bytes from peers",
            f"{figures['tensors_percent']:.1f} %",
            f"the tensors that changed {figures['tensors_changed_percent']:.1f} %",
            figures["tensors_percent"] / figures["tensors_changed_percent"],
        ),
        _row(
            "the same tensors in other shards, another order",
            f"{figures['resharded_percent']:.2f} %",
            "",
            None,
        ),
    ]


def small_files(figures: Figures) -> list[str]:
    return [
        _row(
            "20,000 files of 16 KiB from node to node",
            f"{figures['complete_mb_s']:.0f} MB/s",
            f"one file of as many bytes {figures['complete_large_mb_s']:.0f} MB/s",
            figures["complete_ratio"],
        )
    ]


def many(figures: Figures) -> list[str]:
    return [
        _row(
            f"commands to a node that sends {figures['sent_mb_s']:.0f} MB/s to "
            f"{figures['peers']} peers",
            f"median {figures['median_ms']:.0f} ms, 99 of 100 within {figures['p99_ms']:.0f} ms",
            f"the slowest of them, {figures['releases']} releases listed, with no peer "
            f"{figures['releases_alone_ms']:.0f} ms",
            None,
        )
    ]


def random_range(figures: Figures) -> list[str]:
    return [
        _row(
            "random 1 MiB of a remote 1 GiB, median",
            f"{figures['safetensors_median_ms']:.0f} ms safetensors, "
            f"{figures['plain_median_ms']:.0f} ms others",
            "",
            None,
        )
    ]


def limit(figures: Figures) -> list[str]:
    return [
        _row(
            "a limit of 1 MB/s, over every 2 s",
            f"{figures['least_share']:.3f} to {figures['most_share']:.3f} of it",
            "",
            None,
        )
    ]


def idle(figures: Figures) -> list[str]:
    return [
        _row(
            "idle, seeding 1 GiB",
            f"{figures['rss_mb']:.0f} MB, {figures['core_percent']:.2f} % of a core",
            f"a process that imports our dependencies {figures['imports_rss_mb']:.0f} MB",
            figures["ratio"],
        )
    ]


def scale(figures: Figures) -> list[str]:
    return [
        _row(
            f"{figures['dataset_files']:,} small files: publish, list, fetch a part, remove",
            ", ".join(
                f"{figures[f'dataset_{step}_s']:.1f} s"
                for step in ("publish", "list", "fetch_part", "remove")
            ),
            f"a part is {figures['dataset_part_files']:,} files",
            None,
        ),
        _row(
            "index of 1 TB (names of chunks generated): tensors, other files",
            f"{figures['tensors_index_mb']:.0f} MB, {figures['plain_index_mb']:.0f} MB",
            "",
            None,
        ),
        _row(
            "start with 2 TB held, until ready",
            f"{figures['ready_s']:.2f} s",
            f"with nothing held {figures['ready_empty_s']:.2f} s",
            figures["ready_s"] / figures["ready_empty_s"],
        ),
    ]


CROWDS = ({}, {"seeds": 3}, {"free_rider": True})
MAKERS: dict[str, Callable[[Figures], list[str]]] = {
    make.__name__: make
    for make in (
        one_to_one, ingest, flash_crowd, update, small_files, many, random_range, limit, scale,
        idle,
    )
}  # fmt: skip


def table(folder: Path | None, rounds: int) -> Iterator[str]:
    """The lines of the table, in Markdown, as they are measured.

    A measurement that cannot be made here is left out and named.
    """
    yield HEAD
    missing = []
    for name, make in MAKERS.items():
        module = importlib.import_module(f"tests.benchmarks.{name}")
        for options in CROWDS if name == "flash_crowd" else ({},):
            try:
                yield from make(module.run(folder, rounds, **options))
            except SystemExit as reason:
                missing.append(f"{name}: {reason}")
    for line in missing:
        yield f"\nNot measured: {line}"


def _row(work: str, ours: str, beside: str, ratio: float | None) -> str:
    return f"| {work} | {ours} | {beside} | {'' if ratio is None else f'{ratio:.2f}'} |"
