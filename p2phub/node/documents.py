"""Documents and single chunks by digest, over /p2phub/chunk/1: serving them, and getting them from
whoever has them.

Documents are what must be known before data can be planned: manifest, file pages, object records,
segments. They are asked from several peers at once in batches; each answer is verified by its name
before it is kept, and who sends other bytes is not asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from p2phub.digest import Digest, digest, sha256
from p2phub.errors import (
    ContentError,
    P2phubError,
    PeerTimeout,
    ProtocolViolation,
    StoreError,
    WrongChunk,
)
from p2phub.net.base import Network, PeerId, Stream
from p2phub.node.answering import Answers, answer_each
from p2phub.node.search import Search
from p2phub.node.tasks import open_tasks
from p2phub.proto import protocols
from p2phub.proto.content import ObjectRecord
from p2phub.proto.fetch import (
    NOT_NOW,
    REPLY_HEADER_BYTES,
    AnswerBudget,
    ChunksWanted,
    FileWanted,
    decode_chunk_request,
    parse_reply_header,
    reply_header,
)
from p2phub.proto.frames import frame
from p2phub.store.base import Store

BATCH_DIGESTS = 64  # documents asked for at once: a round trip brings some MB
ANSWER_TIMEOUT_S = 20.0  # for one chunk, at 50 kB/s at the least
ASKED_AT_ONCE = 16  # peers asked for a file by its SHA-256: one that is silent holds up nobody
HEDGE_AFTER_S = 2.0  # an idle peer then asks for what another still owes
# After failures of one peer, doubled; a later round of the search may bring it again.
PAUSE_S, PAUSE_MAX_S = 0.5, 8.0
ROUNDS_ENOUGH = 3  # rounds of search after which nobody who answered has it: no use in waiting on
FALSE_CLAIMS_MAX = 1024  # each cost somebody the upload of a whole file
SEARCH_TIMEOUT_S = 20.0  # without any progress, before "no provider found"


class DocumentServer:
    """Answers others' requests from the store."""

    def __init__(self, network: Network, store: Store) -> None:
        self._store = store
        self._answers = Answers()
        self.sent_bytes = 0
        network.serve(protocols.CHUNK, self._on_stream)

    async def _on_stream(self, stream: Stream) -> None:
        async def answer(question: bytes) -> None:
            await self._answer(stream, decode_chunk_request(question))

        await answer_each(stream, answer)

    async def _answer(self, stream: Stream, request: ChunksWanted | FileWanted) -> None:
        budget = AnswerBudget()
        digests = request.digests if isinstance(request, ChunksWanted) else ()
        if isinstance(request, FileWanted):
            name = await trio.to_thread.run_sync(
                self._store.object_by_sha256, request.sha256, limiter=self._answers.disk
            )
            if name is None:
                await self._answers.send(stream, reply_header(None))
                return
            digests = (name,)
        for name in digests:
            chunk = await trio.to_thread.run_sync(self._read, name, limiter=self._answers.disk)
            if chunk is None:
                await self._answers.send(stream, reply_header(None))
            elif not (
                budget.take(len(chunk)) and self._answers.has_room(len(chunk), stream.remote_host)
            ):
                await self._answers.send(stream, reply_header(NOT_NOW))
            else:
                await self._answers.send(stream, reply_header(len(chunk)) + chunk)
                self.sent_bytes += len(chunk)

    def _read(self, name: Digest) -> bytes | None:
        try:
            return self._store.get(name)
        except StoreError:
            return None  # not held, or not readable: the same to whoever asks


class Documents:
    """Gets documents from the store, else from peers, and keeps them."""

    def __init__(self, network: Network, store: Store) -> None:
        self._network = network
        self._store = store
        self._false_claims: set[Digest] = set()
        self.received_bytes = 0

    async def get(self, name: Digest, search: Search, what: str) -> bytes:
        """One document or chunk. Raises NoProvider."""
        await self.hold([name], search, what)
        return await trio.to_thread.run_sync(self._store.get, name)

    async def hold(
        self,
        names: Sequence[Digest],
        search: Search,
        what: str,
        *,
        timeout_s: float = SEARCH_TIMEOUT_S,
    ) -> None:
        """Have the store hold all of `names`.

        Raises NoProvider when no peer delivered anything for `timeout_s` seconds and a whole round
        of search ended.
        """
        missing = await trio.to_thread.run_sync(
            lambda: [n for n in dict.fromkeys(names) if not self._store.has(n)]
        )
        if missing:
            await _Gathering(self, missing, search, what, timeout_s).run()

    async def find_file(
        self, sum_sha256: bytes, search: Search, *, timeout_s: float = SEARCH_TIMEOUT_S
    ) -> Digest:
        """The name of the object that some peer says has this SHA-256; its record or chunk is then
        held.

        A one-chunk file is proven by the answer itself; a record's claim is proven when the file is
        complete: tell `refuse_claim` of one that was false, and ask again.
        Raises NoProvider.
        """
        local = await trio.to_thread.run_sync(self._store.object_by_sha256, sum_sha256)
        if local is not None:
            return local
        asked: set[PeerId] = set()
        answers: list[bytes] = []
        limiter = trio.CapacityLimiter(ASKED_AT_ONCE)

        async def ask(peer: PeerId, scope: trio.CancelScope) -> None:
            async with limiter:
                answer = await self._ask_file(peer, sum_sha256)
            if answer is not None and digest(answer) not in self._false_claims:
                answers.append(answer)
                scope.cancel()

        with trio.move_on_after(timeout_s):
            async with open_tasks() as nursery:
                while search.rounds_count < ROUNDS_ENOUGH or len(asked) < len(search.found):
                    for peer in search.found:
                        if peer not in asked:
                            asked.add(peer)
                            nursery.start_soon(ask, peer, nursery.cancel_scope)
                    await search.wait_more(len(search.found))
        if not answers:
            raise search.report(f"a file with SHA-256 {sum_sha256.hex()}")
        [name] = await trio.to_thread.run_sync(self._store.put, answers[:1])
        return name

    def refuse_claim(self, name: Digest) -> None:
        """The record of this name states a SHA-256 that its file does not have: never take it for
        an answer again.
        """
        if len(self._false_claims) < FALSE_CLAIMS_MAX:
            self._false_claims.add(name)

    async def _ask_file(self, peer: PeerId, sum_sha256: bytes) -> bytes | None:
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                stream = await self._network.open(peer, protocols.CHUNK)
                try:
                    await stream.send(frame(FileWanted(sum_sha256).encode()))
                    answer = await _receive_chunk(stream)
                finally:
                    await stream.reset()
        except (P2phubError, trio.TooSlowError):
            return None
        if not isinstance(answer, bytes):
            return None
        self.received_bytes += len(answer)
        try:
            return answer if ObjectRecord.decode(answer).sha256 == sum_sha256 else None
        except ContentError:
            return answer if sha256(answer) == sum_sha256 else None

    async def fetch_batch(
        self, peer: PeerId, names: Sequence[Digest], on_chunk: Callable[[], None] = lambda: None
    ) -> dict[Digest, bytes | None]:
        """What one peer answers: verified bytes, None for what it doesn't hold; absent: ask again.

        on_chunk: called as each chunk of the answer was verified.
        Raises WrongChunk if the peer sent other bytes, PeerError or NetworkError if it failed to
        answer.
        """
        answers: dict[Digest, bytes | None] = {}
        stream = await self._network.open(peer, protocols.CHUNK)
        try:
            await stream.send(frame(ChunksWanted(tuple(names)).encode()))
            budget = AnswerBudget()
            for name in names:
                with trio.move_on_after(ANSWER_TIMEOUT_S) as slow:
                    chunk = await _receive_chunk(stream)
                if slow.cancelled_caught:
                    raise PeerTimeout("a peer did not finish its answer")
                if isinstance(chunk, bytes):
                    self.received_bytes += len(chunk)
                    if digest(chunk) != name or not budget.take(len(chunk)):
                        raise WrongChunk("a peer sent other bytes than were asked for", peer=peer)
                    answers[name] = chunk
                    on_chunk()
                elif chunk is None:
                    answers[name] = None
            await stream.close()
        finally:
            await stream.reset()
        return answers


async def _receive_chunk(stream: Stream) -> bytes | int | None:
    """Bytes, NOT_NOW, or None for not held."""
    length = parse_reply_header(await stream.receive_exactly(REPLY_HEADER_BYTES))
    if length is None or length == NOT_NOW:
        return length
    return await stream.receive_exactly(length)


class _Gathering:
    """One set of missing documents, collected by one task per peer."""

    def __init__(
        self,
        documents: Documents,
        missing: list[Digest],
        search: Search,
        what: str,
        timeout_s: float,
    ) -> None:
        self._documents = documents
        self._search = search
        self._what = what
        self._timeout_s = timeout_s
        self._queue: deque[Digest] = deque(missing)
        self._left = set(missing)
        self._lacking: dict[PeerId, set[Digest]] = {}
        self._last_progress_s = trio.current_time()
        self._requeued = trio.Event()

    async def run(self) -> None:
        async with open_tasks() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            while self._left:
                for peer in self._search.found:
                    if peer not in self._lacking:
                        self._lacking[peer] = set()
                        nursery.start_soon(self._ask, peer, nursery.cancel_scope)
                await self._search.wait_more(len(self._search.found))
        if self._left:
            raise self._search.report(self._what)

    async def _watch(self, scope: trio.CancelScope) -> None:
        while True:
            due_s = self._last_progress_s + self._timeout_s
            is_hopeless = self._search.rounds_count >= ROUNDS_ENOUGH and all(
                self._left <= self._lacking.get(peer, self._left) for peer in self._search.found
            )
            if is_hopeless or (trio.current_time() >= due_s and self._search.rounds_count > 0):
                scope.cancel()
            await trio.sleep(0.25)

    async def _ask(self, peer: PeerId, scope: trio.CancelScope) -> None:
        lacking = self._lacking[peer]
        pause_s = PAUSE_S
        while self._left:
            batch = self._take(lacking)
            if not batch:
                if self._left <= lacking:
                    await self._search.wait_round()
                    lacking.clear()  # it may have got it meanwhile
                    continue
                with trio.move_on_after(HEDGE_AFTER_S) as slow:
                    await self._requeued.wait()
                if not slow.cancelled_caught:
                    continue
                # A slow peer must not hold up all.
                batch = list(self._left - lacking)[:BATCH_DIGESTS]
            answers: dict[Digest, bytes | None] = {}
            try:
                answers = await self._documents.fetch_batch(peer, batch, self._on_progress)
                if not answers:
                    raise PeerTimeout("a peer only says that it is asked too early")
            except (WrongChunk, ProtocolViolation):
                self._search.exclude(peer)
                return
            except P2phubError:
                if pause_s > PAUSE_MAX_S:
                    del self._lacking[peer]
                    return
                self._put_back(batch, answers)
                batch = []
                await trio.sleep(pause_s)
                pause_s *= 2
                continue
            finally:
                self._put_back(batch, answers)
            pause_s = PAUSE_S
            lacking.update(name for name, chunk in answers.items() if chunk is None)
            got = [chunk for chunk in answers.values() if chunk is not None]
            if got:
                await trio.to_thread.run_sync(self._documents._store.put, got)
                self._left.difference_update(
                    name for name, chunk in answers.items() if chunk is not None
                )
                self._on_progress()
        scope.cancel()

    def _on_progress(self) -> None:
        self._last_progress_s = trio.current_time()
        self._search.on_fed()

    def _take(self, lacking: set[Digest]) -> list[Digest]:
        batch: list[Digest] = []
        for _ in range(len(self._queue)):
            if len(batch) == BATCH_DIGESTS:
                break
            name = self._queue.popleft()
            if name in lacking:
                self._queue.append(name)
            else:
                batch.append(name)
        return batch

    def _put_back(self, batch: list[Digest], answers: dict[Digest, bytes | None]) -> None:
        for name in batch:
            if answers.get(name) is None and name in self._left and name not in self._queue:
                self._queue.append(name)
        self._requeued.set()
        self._requeued = trio.Event()
