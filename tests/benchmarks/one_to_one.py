"""One gibibyte from one daemon to another: encrypted, verified, on disk; beside bare copies,
curl, and libtorrent v2, which does not encrypt.

usable: every chunk is verified and can be read. complete: the file's SHA-256 was recomputed, it is
synced and the fetch is committed. Each is held against a bare copy that does the same without
p2phub.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.bounds import (
    curl_copy,
    curl_is_there,
    https_server,
    make_certificate,
    tls_disk_copy,
)
from tests.benchmarks.daemons import daemon
from tests.benchmarks.libtorrent import libtorrent_copy, libtorrent_is_there
from tests.benchmarks.measuring import (
    MIB,
    median,
    rate_mb_s,
    settle,
    warm,
    write_safetensors,
)


def fetch_once(home: Path, content: Path, round_number: int) -> dict[str, float]:
    """Two fresh daemons; publish on one, fetch on the other."""
    size = sum(path.stat().st_size for path in content.iterdir())
    with (
        daemon(home / f"uploader-{round_number}") as uploader,
        daemon(home / f"downloader-{round_number}") as downloader,
    ):
        published = uploader.publish(content)
        settle()
        before = uploader.cpu_s, downloader.cpu_s
        fetched: dict[str, Any] = downloader.fetch(
            published["content_id"], uploader.address, home / f"fetched-{round_number}"
        )
        result = {
            "usable_mb_s": rate_mb_s(size, fetched["usable_seconds"]),
            "complete_mb_s": rate_mb_s(size, fetched["seconds"]),
            "uploader_cpu_s": uploader.cpu_s - before[0],
            "downloader_cpu_s": downloader.cpu_s - before[1],
            "uploader_peak_rss_mb": uploader.peak_rss_mb,
            "downloader_peak_rss_mb": downloader.peak_rss_mb,
        }
    for path in (home / f"fetched-{round_number}").iterdir():
        path.unlink()
    return result


def run(folder: Path | None, rounds: int, size_bytes: int = 1024 * MIB) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as text:
        home = Path(text)
        content = home / "content"
        content.mkdir()
        source = content / "model.safetensors"
        write_safetensors(source, size_bytes, seed=1)
        target = home / "target"
        certificate = make_certificate(home)
        has_curl = curl_is_there()
        bounds, complete_bounds, curls, torrents, ours = [], [], [], [], []
        for number in range(rounds):
            warm(source)
            bounds.append(tls_disk_copy(source, target, certificate))
            complete_bounds.append(tls_disk_copy(source, target, certificate, is_complete=True))
            if has_curl:
                with https_server(content, certificate, home / f"nginx-{number}") as url:
                    curls.append(curl_copy(f"{url}/{source.name}", target))
            target.unlink()
            if libtorrent_is_there():
                torrents.append(libtorrent_copy(source, home / f"libtorrent-{number}"))
            ours.append(fetch_once(home, content, number))
    figures = {name: median([one[name] for one in ours]) for name in ours[0]}
    bound, complete_bound = median(bounds), median(complete_bounds)
    return {
        **figures,
        "bound_mb_s": bound,
        "complete_bound_mb_s": complete_bound,
        "ratio": figures["usable_mb_s"] / bound,
        "complete_ratio": figures["complete_mb_s"] / complete_bound,
        "curl_mb_s": median(curls) if has_curl else None,
        "libtorrent_mb_s": median(torrents) if torrents else None,
        "note": "" if has_curl else "nginx or curl is not installed: no rival was measured",
        "runs": {
            "usable_mb_s": [one["usable_mb_s"] for one in ours],
            "complete_mb_s": [one["complete_mb_s"] for one in ours],
            "bound_mb_s": bounds,
            "complete_bound_mb_s": complete_bounds,
            "curl_mb_s": curls,
            "libtorrent_mb_s": torrents,
        },
    }
