"""`python -m tests.benchmarks.libtorrent_peer TORRENT FOLDER ADDRESS PEER...`: one peer of
libtorrent, with its default settings, over TCP.

Prints `ready`, waits for a line, then joins the swarm and tells of what happens as one line of
JSON: the seconds until it has everything. It seeds until its input ends, and then says how many
bytes it sent.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

PORT = 6881


def make_torrent(file: Path, target: Path) -> None:
    """A torrent of version 2 of one file with libtorrent's own choice of a piece length."""
    library: Any = import_module("libtorrent")
    files = library.file_storage()
    library.add_files(files, str(file))
    torrent = library.create_torrent(files, flags=library.create_torrent.v2_only)
    library.set_piece_hashes(torrent, str(file.parent))
    target.write_bytes(library.bencode(torrent.generate()))


def main(torrent: str, folder: str, address: str, *peers: str) -> None:
    library: Any = import_module("libtorrent")
    session = library.session(
        {
            "listen_interfaces": f"{address}:{PORT}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "allow_multiple_connections_per_ip": True,
        }
    )
    print("ready", flush=True)
    sys.stdin.readline()
    began_s = time.perf_counter()
    handle = session.add_torrent({"ti": library.torrent_info(torrent), "save_path": folder})
    for peer in peers:
        handle.connect_peer((peer, PORT))
    while not handle.status().is_seeding:
        time.sleep(0.02)
    print(json.dumps({"seconds": time.perf_counter() - began_s}), flush=True)
    sys.stdin.readline()
    print(json.dumps({"sent_bytes": handle.status().total_payload_upload}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
