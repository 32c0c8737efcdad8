"""Who asked what this node holds, and telling them what is new: first a page's bits, then deltas.

Both ends of a session may ask: a downloader, to know whom to ask for what; a seed, to know which
spans it has not brought among the others yet. News are told at once, but then not again for
DELTA_PERIOD_S, so that a fast download does not drown its peers in messages. A downloader is not
told of what it said to hold itself: in a swarm that is half of all there would be to tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

import trio

from p2phub.digest import Digest
from p2phub.errors import ContentError
from p2phub.net.base import PeerId
from p2phub.proto.limits import INDEXES_PER_DELTA_MAX
from p2phub.proto.messages import Have, HaveDelta, Message, Run
from p2phub.store.base import Store

# By one session, the last it asked about: as many as a seed asks of one release.
PAGES_WATCHED_MAX = 4096
# By all sessions together: about 100 MB. Beyond, the network that has most gives way to one that
# has two fewer; others are only answered.
WATCHES_MAX = 1 << 18
DELTA_PERIOD_S = 0.1  # between two words on what is new

Entries: TypeAlias = Iterable[tuple[Digest, Sequence[int]]]  # (page, entries) held from now on
Say: TypeAlias = Callable[[Message], Awaitable[None]]
# What a peer said it holds of a page, as a set of entries; 0: nothing is known.
Known: TypeAlias = Callable[[PeerId, Digest], int]


class Watches:
    """All watches of a node. `on_held` costs a look-up for each page and a note for each watch."""

    def __init__(self, store: Store, *, count_max: int = WATCHES_MAX) -> None:
        self.store = store
        self._count_max = count_max
        # look-ups at once: strangers' questions must not take all worker threads
        self.disk = trio.CapacityLimiter(4)
        self.by_page: dict[Digest, set[PageWatch]] = {}
        self.count = 0
        self.open: dict[PageWatch, None] = {}  # those that watch something
        self.known: dict[Known, None] = {}  # of each download under way

    def has_room_for(self, network: str) -> bool:
        """Whether one more page may be watched from there, if need be in another's place."""
        if self.count < self._count_max:
            return True
        shares = Counter[str]()
        for watch in self.open:
            shares[watch.network] += len(watch._pages)
        crowded = max(shares, key=lambda name: shares[name])
        if shares[crowded] <= shares[network] + 1:
            return False
        theirs = [watch for watch in self.open if watch.network == crowded]
        fullest = max(theirs, key=lambda watch: len(watch._pages))
        fullest._end(next(iter(fullest._pages)))
        return True

    def held_by(self, peer: PeerId, page: Digest) -> int:
        """What a peer told any download of ours."""
        held = 0
        for known in self.known:
            held |= known(peer, page)
        return held

    def on_held(self, entries: Entries) -> None:
        """Chunks became available here."""
        for page, indexes in entries:
            for watch in self.by_page.get(page, ()):
                watch.note(page, indexes)


class PageWatch:
    """The pages that the other end of one session watches. `run` must run; `close` when it ends."""

    def __init__(
        self, watches: Watches, say: Say, downloader: PeerId | None = None, network: str = ""
    ) -> None:
        """downloader: the other end, if it watches only for what it lacks. network: it is there."""
        self._downloader = downloader
        self.network = network
        self._watches = watches
        self._say = say
        self._pages: dict[Digest, None] = {}  # oldest first
        self._news: dict[Digest, set[int]] = {}
        self._noted = trio.Event()

    @property
    def pages(self) -> Iterable[Digest]:
        """Those it watches, the one asked about longest ago first."""
        return self._pages.keys()

    async def tell(self, pages: Sequence[Digest]) -> None:
        """Answer a question, and watch from now on."""
        for page in pages:
            self._begin(page)
            try:
                bits = await trio.to_thread.run_sync(
                    self._watches.store.held, page, limiter=self._watches.disk
                )
            except ContentError:
                bits = None  # those bytes are here and are no page
            await self._say(Have(page, bits or b""))

    def note(self, page: Digest, indexes: Sequence[int]) -> None:
        self._news.setdefault(page, set()).update(indexes)
        self._noted.set()

    async def run(self) -> None:
        """Tell what is new, until cancelled."""
        while True:
            await self._noted.wait()
            self._noted = trio.Event()
            news, self._news = self._news, {}
            for page, indexes in news.items():
                ordered = sorted(self._unknown(page, indexes))
                for start in range(0, len(ordered), INDEXES_PER_DELTA_MAX):
                    part = ordered[start : start + INDEXES_PER_DELTA_MAX]
                    await self._say(HaveDelta(page, tuple(part)))
            await trio.sleep(DELTA_PERIOD_S)

    def _unknown(self, page: Digest, indexes: set[int]) -> Iterable[int]:
        """Those that the other end may lack."""
        if self._downloader is None:
            return indexes
        held = self._watches.held_by(self._downloader, page)
        return [index for index in indexes if not held >> index & 1]

    def close(self) -> None:
        for page in list(self._pages):
            self._end(page)

    def _begin(self, page: Digest) -> None:
        """Watch one more page; over the bound, the one asked about longest ago no more."""
        if page in self._pages:
            self._end(page)
        elif len(self._pages) >= PAGES_WATCHED_MAX:
            self._end(next(iter(self._pages)))
        if self._watches.has_room_for(self.network):
            self._pages[page] = None
            self._watches.open[self] = None
            self._watches.by_page.setdefault(page, set()).add(self)
            self._watches.count += 1

    def _end(self, page: Digest) -> None:
        del self._pages[page]
        if not self._pages:
            del self._watches.open[self]
        self._news.pop(page, None)
        self._watches.count -= 1
        watchers = self._watches.by_page[page]
        watchers.discard(self)
        if not watchers:
            del self._watches.by_page[page]


def entries_of(runs: Sequence[Run], first: int, stop: int) -> list[tuple[Digest, range]]:
    """Which entries of which pages the chunks [first, stop) of a span's runs are."""
    found: list[tuple[Digest, range]] = []
    base = 0
    for run in runs:
        low, high = max(first - base, 0), min(stop - base, len(run))
        if low < high:
            found.append((run.page, range(run.start + low, run.start + high)))
        base += len(run)
    return found
