"""Who asked what this node holds, and telling them what is new: first a page's bits, then deltas.

Both ends of a session may ask: a downloader, to know whom to ask for what; a seed, to know which
spans it has not brought among the others yet. News are gathered for DELTA_PERIOD_S, so that a fast
download does not drown its peers in messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

import trio

from p2phub.digest import Digest
from p2phub.errors import ContentError, ProtocolViolation
from p2phub.proto.limits import INDEXES_PER_DELTA_MAX
from p2phub.proto.messages import Have, HaveDelta, Message
from p2phub.store.base import Store

PAGES_WATCHED_MAX = 1 << 16  # by one session: half a gigabyte of chunk lists
DELTA_PERIOD_S = 0.1  # between two words on what is new

Entries: TypeAlias = Iterable[tuple[Digest, Sequence[int]]]  # (page, entries) held from now on
Say: TypeAlias = Callable[[Message], Awaitable[None]]


class Watches:
    """All watches of a node. `on_held` costs a look-up for each page and a note for each watch."""

    def __init__(self, store: Store) -> None:
        self.store = store
        # look-ups at once: strangers' questions must not take all worker threads
        self.disk = trio.CapacityLimiter(4)
        self.by_page: dict[Digest, set[PageWatch]] = {}

    def on_held(self, entries: Entries) -> None:
        """Chunks became available here."""
        for page, indexes in entries:
            for watch in self.by_page.get(page, ()):
                watch.note(page, indexes)


class PageWatch:
    """The pages that the other end of one session watches. `run` must run; `close` when it ends."""

    def __init__(self, watches: Watches, say: Say) -> None:
        self._watches = watches
        self._say = say
        self._pages: set[Digest] = set()
        self._news: dict[Digest, set[int]] = {}
        self._noted = trio.Event()

    async def tell(self, pages: Sequence[Digest]) -> None:
        """Answer a question, and watch from now on. Raises ProtocolViolation over the bound."""
        for page in pages:
            if len(self._pages) >= PAGES_WATCHED_MAX:
                raise ProtocolViolation("a session asks about more pages than one may watch")
            self._pages.add(page)
            self._watches.by_page.setdefault(page, set()).add(self)
            self._news.pop(page, None)
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
            await trio.sleep(DELTA_PERIOD_S)
            self._noted = trio.Event()
            news, self._news = self._news, {}
            for page, indexes in news.items():
                ordered = sorted(indexes)
                for start in range(0, len(ordered), INDEXES_PER_DELTA_MAX):
                    part = ordered[start : start + INDEXES_PER_DELTA_MAX]
                    await self._say(HaveDelta(page, tuple(part)))

    def close(self) -> None:
        for page in self._pages:
            watchers = self._watches.by_page[page]
            watchers.discard(self)
            if not watchers:
                del self._watches.by_page[page]
        self._pages.clear()
