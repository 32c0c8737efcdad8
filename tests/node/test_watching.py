"""Who is told what is new: whoever asked and may lack it, in virtual time."""

from __future__ import annotations

import base58
import pytest
import trio
from trio.testing import MockClock

from p2phub.digest import Digest, digest, sha256
from p2phub.net.base import PeerId
from p2phub.node.watching import DELTA_PERIOD_S, PageWatch, Watches
from p2phub.proto.messages import Have, HaveDelta, Message
from p2phub.store.memory import MemoryStore

PAGE = digest(b"a page that nobody can read here")
PEER = PeerId(base58.b58encode(bytes.fromhex("002408011220") + sha256(b"a peer")).decode())


def known(peer: PeerId, page: Digest) -> int:
    """A download of ours heard that PEER holds entries 1 and 2."""
    return 0b110 if (peer, page) == (PEER, PAGE) else 0


@pytest.mark.parametrize(
    ("downloader", "told"), [(PEER, [(0, 3), (4,)]), (None, [(0, 1, 2, 3), (4,)])]
)
async def test_a_downloader_is_not_told_of_what_it_holds_and_a_seed_of_everything(
    autojump_clock: MockClock, downloader: PeerId | None, told: list[tuple[int, ...]]
) -> None:
    watches = Watches(MemoryStore())
    watches.known[known] = None
    heard: list[Message] = []

    async def say(message: Message) -> None:
        heard.append(message)

    watch = PageWatch(watches, say, downloader)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await watch.tell([PAGE])
        watches.on_held([(PAGE, range(4))])
        await trio.sleep(2 * DELTA_PERIOD_S)
        if downloader is not None:
            watches.on_held([(PAGE, (1, 2))])  # nothing it lacks: no word at all
            await trio.sleep(2 * DELTA_PERIOD_S)
        watches.on_held([(PAGE, (4,))])
        await trio.sleep(2 * DELTA_PERIOD_S)
        nursery.cancel_scope.cancel()
    watch.close()
    assert heard == [Have(PAGE, b""), *(HaveDelta(PAGE, indexes) for indexes in told)]
    assert watches.count == 0
