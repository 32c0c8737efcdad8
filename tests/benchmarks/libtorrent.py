"""libtorrent beside us: its peers as processes of their own, and one copy between two of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.libtorrent_peer import make_torrent
from tests.benchmarks.measuring import rate_mb_s, settle

SEED_ADDRESS, PEER_ADDRESS = "127.0.6.1", "127.0.6.2"  # loopback: one port for each peer


def libtorrent_is_there() -> bool:
    """Whether `make rivals` was run."""
    return find_spec("libtorrent") is not None


class LibtorrentPeer:
    """A running `libtorrent_peer`. Ends at the latest at the end of the block."""

    def __init__(
        self,
        torrent: Path,
        folder: Path,
        address: str,
        peers: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> None:
        """within: a command that runs others elsewhere, such as in a network namespace."""
        program = (sys.executable, "-m", "tests.benchmarks.libtorrent_peer")
        self._process = subprocess.Popen(
            [*within, *program, str(torrent), str(folder), address, *peers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ.copy(),
            text=True,
        )

    def __enter__(self) -> LibtorrentPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_ready(self) -> None:
        self._line()

    def begin(self) -> None:
        """Join the swarm now."""
        self._tell()

    def seconds(self) -> float:
        """Waits until it has everything; the seconds since `begin`."""
        return float(json.loads(self._line())["seconds"])

    def end(self) -> None:
        self._tell()

    def sent_bytes(self) -> int:
        """Payload it sent, once it was ended."""
        return int(json.loads(self._line())["sent_bytes"])

    def _tell(self) -> None:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a libtorrent process died")
        return line


def libtorrent_copy(source: Path, folder: Path) -> float:
    """MB/s of one copy into `folder`, a new one: verified by its hashes, not encrypted."""
    folder.mkdir()
    torrent = folder / "torrent"
    make_torrent(source, torrent)
    settle()
    with (
        LibtorrentPeer(torrent, source.parent, SEED_ADDRESS) as seed,
        LibtorrentPeer(torrent, folder, PEER_ADDRESS, [SEED_ADDRESS]) as peer,
    ):
        seed.wait_ready()
        peer.wait_ready()
        seed.begin()
        seed.seconds()  # it reads what it has
        peer.begin()
        took_s = peer.seconds()
    target = folder / source.name
    assert target.stat().st_size == source.stat().st_size
    target.unlink()
    return rate_mb_s(source.stat().st_size, took_s)
