"""The addresses through which this node joins the network: the configured ones, and those that the
user keeps in a file of the home.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import trio

from p2phub.errors import P2phubError, UsageError
from p2phub.net.base import parse_peer_address
from p2phub.node.files import read_json, write_durably
from p2phub.node.neighbours import Neighbours

KEPT_BYTES_MAX = 1 << 20


class BootstrapList:
    """See `BootstrapApi`. configured: those that `neighbours` was made with."""

    def __init__(self, path: Path, configured: Sequence[str], neighbours: Neighbours) -> None:
        self._path = path
        self._configured = configured
        self._neighbours = neighbours
        self._kept = _kept_addresses(path)
        for address in self._kept:
            neighbours.add_bootstrap(address)

    async def list(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self._configured, *self._kept]))

    async def add(self, address: str) -> tuple[str, ...]:
        parse_peer_address(address)
        if address not in self._kept:
            self._kept.append(address)
            await self._save()
        self._neighbours.add_bootstrap(address)
        return await self.list()

    async def remove(self, address: str) -> tuple[str, ...]:
        if address not in self._kept:
            is_configured = address in self._configured
            where = "it stands in config.toml" if is_configured else "it is not kept"
            raise UsageError(f"{address} cannot be removed: {where}", address=address)
        self._kept.remove(address)
        self._neighbours.remove_bootstrap(address)
        await self._save()
        return await self.list()

    async def _save(self) -> None:
        data = json.dumps(self._kept).encode()
        await trio.to_thread.run_sync(write_durably, self._path, data)


def _kept_addresses(path: Path) -> list[str]:
    """What stands in the file; what is not an address is left out."""
    kept = []
    for text in read_json(path, KEPT_BYTES_MAX) or []:
        try:
            parse_peer_address(str(text))
        except P2phubError:
            continue
        kept.append(str(text))
    return kept
