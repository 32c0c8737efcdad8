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


async def test_a_network_that_watches_most_gives_way_to_who_watches_little() -> None:
    watches = Watches(MemoryStore(), count_max=8)
    pages = [digest(bytes([number])) for number in range(8)]
    heard: list[Message] = []

    async def say(message: Message) -> None:
        heard.append(message)

    crowd = [PageWatch(watches, say, network="crowd") for _ in range(2)]
    honest = PageWatch(watches, say, network="home")
    await crowd[0].tell(pages[:5])
    await crowd[1].tell(pages[:5])
    assert watches.count == 8 and [len(list(watch.pages)) for watch in crowd] == [5, 3]
    await honest.tell(pages)
    assert list(honest.pages) == pages[:4], "then none has two more than it"
    assert watches.count == 8 and len(heard) == 18, "everybody was answered"
    assert list(crowd[0].pages) == pages[3:5] and list(crowd[1].pages) == pages[1:3]
    for watch in (*crowd, honest):
        watch.close()
    assert watches.count == 0 and not watches.open and not watches.by_page
