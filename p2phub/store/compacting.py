"""Writing packs anew that hold mostly dead chunks, so that the disk gets their room back.

Order, which survives a crash at any instant: the living chunks are verified, appended to the
current pack and synced; one transaction lets the index point there; only when no row points to the
old pack any more is it unlinked, and its row goes last. A crash leaves an old pack without rows,
which the next run takes away.
"""

from __future__ import annotations

from collections.abc import Mapping

from p2phub.digest import Digest
from p2phub.store.holdings import Holdings
from p2phub.store.packs import PACK_MAGIC, Location
from p2phub.store.parts import Parts

DEAD_SHARE_MAX = 4  # a pack is written anew when a fourth of it or more is dead
GROUP_BYTES = 16 << 20  # read, appended and synced at once


class Compacting:
    """Compacts the packs of one store."""

    def __init__(self, holdings: Holdings, parts: Parts) -> None:
        self._holdings = holdings
        self._parts = parts

    def run(self, live_bytes: Mapping[int, int], *, is_dry_run: bool) -> int:
        """Compact what is worth it. live_bytes: in each pack, as just counted. Bytes freed."""
        freed = 0
        for number, size in self._holdings.index.pack_ends().items():
            live = live_bytes.get(number, 0)
            dead = size - live - len(PACK_MAGIC)
            if dead * DEAD_SHARE_MAX < size:
                continue
            if not is_dry_run and not self._move_all(number):
                continue
            freed += size - live
        if not is_dry_run:
            for number in self._parts.stray_packs():
                self._unlink(number)
        return freed

    def _move_all(self, number: int) -> bool:
        """Empty a pack and unlink it; False if something in it had to stay."""
        holdings = self._holdings
        holdings.packs.leave(number)
        group: list[tuple[Digest, Location]] = []
        size = 0
        for name, location in holdings.index.chunks_in(number):
            group.append((name, location))
            size += location.length
            if size >= GROUP_BYTES:
                self._move(group)
                group, size = [], 0
        if group:
            self._move(group)
        if holdings.index.chunks_in(number):
            return False
        self._unlink(number)
        with holdings.index.transaction() as change:
            change.drop_pack(number)
        holdings.packs.dropped(number)
        return True

    def _unlink(self, number: int) -> None:
        path = self._holdings.folder.pack(number)
        self._holdings.files.remove(path)
        self._holdings.files.sync_folder(path.parent)

    def _move(self, group: list[tuple[Digest, Location]]) -> None:
        chunks = []
        for name, location in group:
            data = self._holdings.packed(name, location)
            if data is not None:
                chunks.append((name, data))
        self._parts.move_in_packs(chunks, dict(group))
