"""Super-seeding over a real store: who is offered what, by what its session asked about."""

from __future__ import annotations

import random
from pathlib import Path

import trio

from p2phub.digest import Digest
from p2phub.node.seeding import Seeding
from p2phub.node.trees import held_tree, page_lengths
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.messages import Ask, Message, Offer, Run
from p2phub.store.base import Store
from tests.node.real_nodes import node, publish

FILE_SIZE = 5_000_000


class Sessions:
    """What the seed says to each session, and what each asked about."""

    def __init__(self, store: Store, manifest: Digest) -> None:
        self.said: dict[str, list[Message]] = {}
        self.asked: dict[str, tuple[Digest, ...]] = {}
        self.requested: dict[str, list[Run]] = {}
        self.withheld: frozenset[str] = frozenset()
        self.manifest = manifest
        self.seeding = Seeding(
            store,
            "seed",
            lambda key, message: self.said.setdefault(key, []).append(message),
            self._withhold,
            lambda: 8,
            lambda key: self.asked.get(key, ()),
            lambda key: self.requested.get(key, ()),
        )

    def _withhold(self, keys: frozenset[str]) -> None:
        self.withheld = keys

    def join(self, key: str) -> None:
        self.seeding.on_join(key, self.manifest)

    def ask(self, key: str, *pages: Digest) -> None:
        """A session asks, and answers that it holds nothing itself."""
        self.asked[key] = (*self.asked.get(key, ()), *pages)
        self.seeding.on_ask(key, pages)

    def answer(self, key: str) -> None:
        for message in self.said[key]:
            if isinstance(message, Ask):
                for page in message.pages:
                    self.seeding.on_have(key, page, b"")

    def offered(self, key: str) -> set[Digest]:
        """The pages that a session was offered something of."""
        return {m.run.page for m in self.said.get(key, ()) if isinstance(m, Offer)}


async def pages_of(store: Store, content_id: str) -> tuple[Digest, dict[str, Digest]]:
    """The manifest of a release, and the first page of each of its large files."""
    manifest = parse_content_id(content_id)
    tree = held_tree(store, manifest)
    large = [file for file in tree.files if file.has_record]
    pages = {file.path: next(iter(page_lengths(store, tree, [file])))[0] for file in large}
    return manifest, pages


async def test_a_session_is_offered_what_it_asked_about_whenever_it_asked(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "model").mkdir(exist_ok=True)
        data = random.Random(name).randbytes(FILE_SIZE)
        (tmp_path / "model" / f"{name}.bin").write_bytes(data)
    async with node(tmp_path / "one") as one:
        manifest, pages = await pages_of(one._store, await publish(one, tmp_path / "model"))
        a, b, c = (pages[f"{name}.bin"] for name in "abc")
        sessions = Sessions(one._store, manifest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.seeding.run)
            sessions.join("early")
            sessions.ask("early", a, b)
            sessions.join("late")  # a second session: the machine is loaded
            with trio.fail_after(10):
                while len(sessions.said) < 2:
                    await trio.sleep(0.01)
            sessions.ask("late", b, c)
            sessions.answer("early")
            sessions.answer("late")
            with trio.fail_after(10):
                while not sessions.offered("early") or not sessions.offered("late"):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert sessions.offered("early") == sessions.offered("late") == {b}


async def test_what_a_session_requested_before_the_machine_was_there_is_not_offered_to_others(
    tmp_path: Path,
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.bin").write_bytes(random.Random("a").randbytes(FILE_SIZE))
    async with node(tmp_path / "one") as one:
        manifest, pages = await pages_of(one._store, await publish(one, tmp_path / "model"))
        page = pages["a.bin"]
        sessions = Sessions(one._store, manifest)
        sessions.requested["early"] = [Run(page, 0, 1)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.seeding.run)
            for name in ("early", "late"):
                sessions.join(name)
                sessions.ask(name, page)
            with trio.fail_after(10):
                while len(sessions.said) < 2:
                    await trio.sleep(0.01)
            sessions.seeding.on_request("early", [Run(page, 1, 2)])
            for name in ("early", "late"):
                sessions.answer(name)
            with trio.fail_after(10):
                while not sessions.offered("late"):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        offered = {m.run.start for m in sessions.said["late"] if isinstance(m, Offer)}
        assert offered and not offered & {0, 1}


async def test_sessions_that_want_different_files_have_slots_and_no_offers(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in "ab":
        data = random.Random(name).randbytes(FILE_SIZE)
        (tmp_path / "model" / f"{name}.bin").write_bytes(data)
    async with node(tmp_path / "one") as one:
        manifest, pages = await pages_of(one._store, await publish(one, tmp_path / "model"))
        sessions = Sessions(one._store, manifest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sessions.seeding.run)
            for name in "ab":
                sessions.join(name)
                sessions.ask(name, pages[f"{name}.bin"])
            with trio.fail_after(10):
                while len(sessions.said) < 2:
                    await trio.sleep(0.01)
            for name in "ab":
                sessions.answer(name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not sessions.offered("a") and not sessions.offered("b")
        assert not sessions.withheld
