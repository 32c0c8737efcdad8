"""Publishers that this node follows or signs for: their TUF metadata over /p2phub/meta/1, asked and
answered.

What peers answer is verified by `p2phub.trust`; this module only carries questions and answers and
keeps one `Follower` for each publisher. A peer can withhold, never forge, so all answers that come
in time are used, and where all of them were wrong, others are asked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import trio

from p2phub.core.trust.releases import ReleaseStatement
from p2phub.errors import (
    BrokenRootChain,
    MetadataExpired,
    MetadataIncomplete,
    NoProvider,
    P2phubError,
    PeerTimeout,
    RollbackRefused,
    TamperedMetadata,
    WrongSigner,
)
from p2phub.net.base import Network, PeerId, Stream
from p2phub.node.answering import Answers, answer_each
from p2phub.node.search import Search
from p2phub.node.tasks import open_tasks
from p2phub.paths import Home
from p2phub.proto import protocols
from p2phub.proto.fetch import (
    REPLY_HEADER_BYTES,
    MetaWanted,
    metadata_bytes_max,
    parse_reply_header,
    reply_header,
)
from p2phub.proto.frames import frame
from p2phub.trust.floor import Floor
from p2phub.trust.follower import Follower, FreshView

PEERS_ASKED_MAX = 8  # for one file
ANSWERS_ENOUGH = 3  # distinct peers after which the slow ones are not waited for
NEWS_GRACE_S = 0.5  # waited all the same for who may know newer: three quick peers may collude
ROUNDS_MAX = 3  # of one refresh, each with peers that gave no wrong answer in those before
ANSWER_WINDOW_S = 5.0  # all answers within it are used
ASKING_MAX = 8  # publishers whose news are asked for at once
ANSWER_TIMEOUT_S = 15.0  # without any answer, before "no provider found"

NEWS = "timestamp.json"  # the one file that no other file vouches for
# What wrong answers lead to; other peers may have right ones.
_WRONG_ANSWERS = (
    BrokenRootChain, MetadataExpired, MetadataIncomplete, RollbackRefused, TamperedMetadata,
    WrongSigner,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Seen:
    """A refreshed view, and how many peers agreed on it."""

    view: FreshView
    peers_count: int  # that answered with the publisher's timestamp


class Publishers:
    """All followers of this node.

    `run` must run for refreshes to work; held state is there at once.
    """

    def __init__(self, network: Network, home: Home) -> None:
        self._network = network
        self._home = home
        self.floor = Floor(home.floor)
        self._followers: dict[str, _Followed] = {}
        self._answers = Answers()
        # Followers wait for peers in their threads: the store's calls must find some free.
        self._asking = trio.CapacityLimiter(ASKING_MAX)
        network.serve(protocols.META, self._on_stream)

    def close(self) -> None:
        self.floor.close()

    def follower(self, publisher_id: str) -> Follower:
        """The one follower of this publisher. Raises UnknownReference unless the id is whole."""
        return self._followed(publisher_id).follower

    async def refresh(self, publisher_id: str, search: Search) -> Seen:
        """Ask peers what is new. Raises as `Follower.refresh`; NoProvider where nobody answered."""
        followed = self._followed(publisher_id)
        async with followed.lock:
            followed.begin(search)
            try:
                view = await self._refresh(followed)
            finally:
                followed.search = None
            return Seen(view, len(followed.news_peers))

    async def _refresh(self, followed: _Followed) -> FreshView:
        for _ in range(ROUNDS_MAX - 1):
            try:
                return await trio.to_thread.run_sync(
                    followed.follower.refresh, time.time(), limiter=self._asking
                )
            except _WRONG_ANSWERS:
                if not followed.pass_over():
                    raise
        return await trio.to_thread.run_sync(
            followed.follower.refresh, time.time(), limiter=self._asking
        )

    async def resolve(
        self,
        publisher_id: str,
        name: str,
        version: str | None,
        search: Search | None,
        *,
        allow_yanked: bool = False,
    ) -> ReleaseStatement:
        """The signed release that a name means in the state held; asks peers for the name's own
        file if it is lacking.
        """
        followed = self._followed(publisher_id)
        async with followed.lock:
            followed.begin(search)
            try:
                return await trio.to_thread.run_sync(
                    followed.follower.resolve,
                    name,
                    version,
                    time.time(),
                    allow_yanked,
                    limiter=self._asking,
                )
            finally:
                followed.search = None

    async def import_metadata(self, publisher_id: str, files: Mapping[str, bytes]) -> FreshView:
        """Take what the owner's own command signed, verified as any follower would."""
        followed = self._followed(publisher_id)
        async with followed.lock:
            return await trio.to_thread.run_sync(
                followed.follower.import_metadata, files, time.time()
            )

    def followed_ids(self) -> list[str]:
        """Publishers with a follower in memory."""
        return list(self._followers)

    def _followed(self, publisher_id: str) -> _Followed:
        followed = self._followers.get(publisher_id)
        if followed is None:
            followed = self._followers[publisher_id] = _Followed(
                publisher_id, self._network, self.floor, self._home
            )
        return followed

    # ---- answering -------------------------------------------------------------------------------

    async def _on_stream(self, stream: Stream) -> None:
        async def answer(question: bytes) -> None:
            wanted = MetaWanted.decode(question)
            held = await self._held(wanted)
            if held is not None and not self._answers.has_room(len(held), stream.remote_host):
                raise PeerTimeout("others read their answers too slowly to answer more now")
            await self._answers.send(
                stream, reply_header(len(held) if held else None) + (held or b"")
            )

        await answer_each(stream, answer)

    async def _held(self, wanted: MetaWanted) -> bytes | None:
        # Only publishers that this node follows have a folder: a stranger's question must not make
        # one.
        folder = self._home.followed(wanted.publisher_id)
        is_followed = wanted.publisher_id in self._followers or await trio.to_thread.run_sync(
            folder.exists, limiter=self._answers.disk
        )
        if not is_followed:
            return None
        follower = self._followed(wanted.publisher_id).follower
        return await trio.to_thread.run_sync(
            follower.metadata, wanted.file_name, limiter=self._answers.disk
        )


class _Followed:
    """One follower, and what its questions need: the search that runs for them, who answered."""

    def __init__(self, publisher_id: str, network: Network, floor: Floor, home: Home) -> None:
        self.lock = trio.Lock()
        self.search: Search | None = None
        self.news_peers: set[PeerId] = set()
        self._silent: set[PeerId] = set()  # let the window of an earlier question pass
        self._answered: set[PeerId] = set()  # the last question
        self._passed_over: set[PeerId] = set()  # answered one that came to nothing
        self._network = network
        self._publisher_id = publisher_id
        self.follower = Follower(publisher_id, home.followed(publisher_id), floor, self._fetch)

    def begin(self, search: Search | None) -> None:
        """Let the follower's next questions go to the peers of a search."""
        self.search = search
        self.news_peers, self._silent = set(), set()
        self._answered, self._passed_over = set(), set()

    def pass_over(self) -> bool:
        """Those who answered the last question are asked no more; whether others are left."""
        self._passed_over |= self._answered
        self._answered = set()
        return self.search is not None and bool(set(self.search.found) - self._passed_over)

    def _fetch(self, file_name: str, bytes_max: int) -> list[bytes]:
        """Called by the follower in its worker thread."""
        return trio.from_thread.run(self._ask_all, file_name, bytes_max)

    async def _ask_all(self, file_name: str, bytes_max: int) -> list[bytes]:
        """Distinct answers of the peers found. Raises NoProvider if none answered."""
        search = self.search
        if search is None:
            raise NoProvider(f"{file_name} of the publisher is not here, and no peers were asked")
        answers: dict[PeerId, bytes | None] = {}
        asked: set[PeerId] = set()
        grace_s = NEWS_GRACE_S if file_name == NEWS else 0.0
        changed = trio.Event()
        started_s = trio.current_time()

        async def ask(peer: PeerId) -> None:
            nonlocal changed
            try:
                with trio.fail_after(ANSWER_WINDOW_S):
                    answers[peer] = await self._ask(peer, file_name, bytes_max)
            except (P2phubError, trio.TooSlowError):
                asked_failed.add(peer)
                self._silent.add(peer)
            changed.set()

        asked_failed: set[PeerId] = set()
        async with open_tasks() as nursery:
            while True:
                for peer in search.found:
                    has_room = len(asked) - len(asked_failed) < PEERS_ASKED_MAX
                    if has_room and peer not in asked and peer not in self._passed_over:
                        asked.add(peer)
                        nursery.start_soon(ask, peer)
                waited_s = trio.current_time() - started_s
                # Who was silent before is asked again, and not waited for again.
                pending = asked - asked_failed - self._silent - answers.keys()
                round_over = search.is_surveyed and not pending
                held_count = sum(answer is not None for answer in answers.values())
                if (held_count >= ANSWERS_ENOUGH and waited_s >= grace_s) or (
                    answers and (round_over or waited_s >= ANSWER_WINDOW_S)
                ):
                    self._silent |= pending if waited_s >= ANSWER_WINDOW_S else set()
                    break
                if waited_s >= ANSWER_TIMEOUT_S:
                    break
                changed = trio.Event()
                with trio.move_on_after(0.25):
                    await changed.wait()
            nursery.cancel_scope.cancel()
        if not answers:
            raise search.report(f"the signed metadata of publisher {self._publisher_id}")
        self._answered = set(answers)
        if file_name == NEWS:
            self.news_peers = {peer for peer, answer in answers.items() if answer is not None}
        return list(dict.fromkeys(answer for answer in answers.values() if answer is not None))

    async def _ask(self, peer: PeerId, file_name: str, bytes_max: int) -> bytes | None:
        stream = await self._network.open(peer, protocols.META)
        try:
            await stream.send(frame(MetaWanted(self._publisher_id, file_name).encode()))
            size_max = min(bytes_max, metadata_bytes_max(file_name))
            length = parse_reply_header(
                await stream.receive_exactly(REPLY_HEADER_BYTES), size_max=size_max
            )
            return None if length is None else await stream.receive_exactly(length)
        finally:
            await stream.reset()
