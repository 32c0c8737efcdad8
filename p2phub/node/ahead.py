"""What a fetch does with the cores that its transfer leaves: hashing and laying out files while the
rest arrives, so that little is left to do at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import trio

from p2phub.digest import Digest
from p2phub.errors import StoreError
from p2phub.node.downloads import Transfer
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import Layout, Store
from p2phub.store.hashing import core_wait_s

HASH_AHEAD_BYTES = 8 << 20  # of one file before the next one has its turn: 5 ms of a core
HASH_AHEAD_YIELD = 10  # pause for this many times what it waited for a core: the lanes need it more
HASH_AHEAD_YIELD_S_MAX = 0.1  # or the last bytes, when nobody needs the core, would wait for it
HASH_AHEAD_FILES = 64  # of a release: smaller ones cost little to hash at the end
HASH_AHEAD_PAUSE_S = 0.02  # gathers some MB, so that a thread is not woken for every frame
LAY_AHEAD_YIELD_S_MAX = 1.0  # as for hashing; what is left over is laid out at the end
LAY_AHEAD_BYTES = 1 << 20  # of small files at once, or one group: a cancel waits for it
DISCARD_TIMEOUT_S = 2.0  # a daemon that ends is given 4.5 s for all


async def hash_ahead(store: Store, objects: Sequence[FileRecord], transfer: Transfer) -> None:
    """Hash files while they arrive, each as far as it is there without a gap.

    With the cores that the transfer leaves, and while the last chunks are synced with all.
    """
    largest = sorted(objects, key=lambda file: -file.size)[:HASH_AHEAD_FILES]
    while True:
        arrived = transfer.next_arrival()
        hashed_bytes = 0
        for file in largest:
            some_bytes, waited_s = await trio.to_thread.run_sync(_hash_some, store, file.object)
            hashed_bytes += some_bytes
            if waited_s and not transfer.machine.is_complete:
                await trio.sleep(min(HASH_AHEAD_YIELD * waited_s, HASH_AHEAD_YIELD_S_MAX))
        if not hashed_bytes:
            await arrived.wait()
            await trio.sleep(HASH_AHEAD_PAUSE_S)


def _hash_some(store: Store, object: Digest) -> tuple[int, float]:
    """Bytes hashed, and for how long other threads left no core for it."""
    before_s = core_wait_s()
    hashed_bytes = store.hash_ahead(object, HASH_AHEAD_BYTES)
    return hashed_bytes, core_wait_s() - before_s


async def lay_ahead(layout: Layout, transfer: Transfer) -> None:
    """Write small files to where they will lie while others arrive, as soon as each is durable.

    What the disk refuses here it refuses again at the end, and then the fetch fails.
    """
    with suppress(StoreError):
        while True:
            durable = transfer.next_checkpoint()
            laid_bytes, waited_s = await trio.to_thread.run_sync(_lay_some, layout)
            if not laid_bytes:
                await durable.wait()
            elif waited_s:
                await trio.sleep(min(HASH_AHEAD_YIELD * waited_s, LAY_AHEAD_YIELD_S_MAX))


def _lay_some(layout: Layout) -> tuple[int, float]:
    """Bytes laid out, and for how long other threads left no core for it."""
    before_s = core_wait_s()
    laid_bytes = layout.advance(LAY_AHEAD_BYTES)
    return laid_bytes, core_wait_s() - before_s


async def discard(layout: Layout) -> None:
    """Take away what a fetch that ended early has laid out, for so long as a daemon may take to
    end: the next fetch to the same place takes away the rest.
    """
    with trio.move_on_after(DISCARD_TIMEOUT_S, shield=True):
        await trio.to_thread.run_sync(layout.discard, abandon_on_cancel=True)
