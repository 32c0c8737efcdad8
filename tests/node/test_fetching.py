"""Fetching between real nodes: whole, partial, resumed, from liars, by every kind of reference."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from p2phub.digest import sha256
from p2phub.errors import (
    DestinationExists,
    DigestMismatch,
    NoProvider,
    NothingSelected,
    RollbackRefused,
    TrustError,
)
from p2phub.node import downloads
from p2phub.node.api import Fetched, FetchRequest, Progress
from p2phub.node.limits_api import LimitChange
from p2phub.paths import PART_FOLDER
from p2phub.proto.content import ObjectRecord
from p2phub.proto.content_id import content_id_text, parse_content_id
from p2phub.proto.manifest import FilePage, Manifest, cut_pages, page_ref
from p2phub.proto.messages import Choke, Run
from p2phub.proto.names import parse_reference
from p2phub.store.base import SpanReader
from p2phub.store.disk import DiskStore
from tests.node.real_nodes import (
    address,
    fetch,
    ignore,
    node,
    publish,
    publish_signed,
    same_files,
    write_model,
)


async def test_a_release_is_fetched_by_content_id_into_a_folder_at_no_extra_bytes(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        fetched = await fetch(b, content_id, to=tmp_path / "out", peers=(await address(a),))
        assert same_files(model, tmp_path / "out")
        assert fetched.path == tmp_path / "out"
        assert fetched.bytes_fetched < 3_200_000 * 1.03  # documents included
        usage = b._store.usage()
        assert usage.data_bytes == usage.part_bytes == 0


async def test_without_a_folder_the_result_is_a_read_only_tree_below_the_home(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        fetched = await fetch(b, content_id, peers=(await address(a),))
        assert same_files(model, fetched.path)
        assert fetched.path.is_relative_to(tmp_path / "b" / "releases")
        assert not any(p.stat().st_mode & 0o222 for p in fetched.path.rglob("*") if p.is_file())
        again = await fetch(b, content_id)
        assert again.path == fetched.path
        assert again.bytes_fetched == 0


async def test_a_folder_that_gets_copies_of_what_is_held_is_said_to_have_them(
    tmp_path: Path,
) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        await fetch(b, content_id, peers=(await address(a),))
        fetched = await fetch(b, content_id, to=tmp_path / "out")
        assert fetched.method in ("copy", "reflink")
        assert same_files(model, tmp_path / "out")


async def test_chunks_come_from_several_peers_at_once(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=24_000_000)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b, node(tmp_path / "c") as c:
        content_id = await publish(a, model)
        await fetch(b, content_id, to=tmp_path / "b-out", peers=(await address(a),))
        fetched = await fetch(
            c, content_id, to=tmp_path / "c-out", peers=(await address(a), await address(b))
        )
        assert same_files(model, tmp_path / "c-out")
        assert len([share for share in fetched.peers if share.bytes]) == 2


async def test_only_the_files_asked_for_are_fetched(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        peers = (await address(a),)
        fetched = await fetch(
            b, content_id, to=tmp_path / "out", peers=peers, include=("nested/*",)
        )
        assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["vocabulary.bin"]
        assert fetched.bytes_fetched < 300_000
        with pytest.raises(NothingSelected):
            await fetch(b, content_id, peers=peers, include=("*.onnx",))


async def test_lanes_that_break_again_and_again_do_not_end_a_fetch(tmp_path: Path) -> None:
    async with node(tmp_path / "one") as one, node(tmp_path / "two") as two:
        reference = await publish(one, write_model(tmp_path / "model", size=24_000_000))
        await one.limits.limit(LimitChange(up="20M"))
        peers = (await address(one),)

        async def break_lanes() -> None:
            for after_bytes in (6_000_000, 14_000_000):
                while one._serving.sent.total < after_bytes:
                    await trio.sleep(0.01)
                for channel in list(one._channels._open):
                    channel.close()

        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(break_lanes)
                await fetch(two, reference, peers=peers)
                nursery.cancel_scope.cancel()


async def test_a_session_in_which_nothing_happens_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "RENEW_S", 3.0)
    async with node(tmp_path / "one") as one, node(tmp_path / "two") as two:
        reference = await publish(one, write_model(tmp_path / "model", size=8_000_000))
        await one.limits.limit(LimitChange(up="4M"))
        peers = (await address(one),)

        async def take_the_slot_away_for_good() -> None:
            while not one._serving.sent.total:
                await trio.sleep(0.01)
            [served] = one._serving._sessions.values()
            served.say(Choke())  # and its own books say nothing of it

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_the_slot_away_for_good)
                await fetch(two, reference, peers=peers, to=tmp_path / "out")
        assert same_files(tmp_path / "model", tmp_path / "out")


async def test_an_object_and_a_sha256_are_fetched_as_one_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    data = (model / "weights.bin").read_bytes()
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b, node(tmp_path / "c") as c:
        content_id = await publish(a, model)
        shown = await a.show(parse_reference(content_id))
        [weights] = [file for file in shown.files if file.path == "weights.bin"]
        peers = (await address(a),)
        by_object = await fetch(b, content_id_text(weights.object), peers=peers)
        assert by_object.path.read_bytes() == data
        by_sum = await fetch(c, f"sha256:{sha256(data).hex()}", to=tmp_path / "c-out", peers=peers)
        assert by_sum.path.read_bytes() == data


async def test_what_nobody_holds_ends_with_who_was_asked_and_for_how_long(tmp_path: Path) -> None:
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        with pytest.raises(NoProvider) as caught:
            await fetch(b, content_id_text(sha256(b"nothing")), peers=(await address(a),))
        assert caught.value.facts["peers_asked"] == [(await a.identity()).peer_id]
        assert "asked 1 peer and 1 node of the network" in str(caught.value)


class LyingStore(DiskStore):
    """A store of a peer that sends other bytes than it has."""

    def span_reader(self, runs: tuple[Run, ...]) -> SpanReader:  # type: ignore[override]
        return _LyingReader(super().span_reader(runs))


class _LyingReader:
    def __init__(self, reader: SpanReader) -> None:
        self._reader = reader
        self.lengths = reader.lengths

    def read(self, first: int, stop: int, into: memoryview) -> None:
        self._reader.read(first, stop, into)
        into[-1] ^= 1


async def test_a_liar_is_named_and_the_fetch_ends_right(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=12_000_000)
    liars_store = LyingStore(tmp_path / "liar" / "store")
    async with (
        node(tmp_path / "a") as a,
        node(tmp_path / "liar", store=liars_store) as liar,
        node(tmp_path / "c") as c,
    ):
        content_id = await publish(a, model)
        await fetch(liar, content_id, to=tmp_path / "liar-out", peers=(await address(a),))
        fetched = await fetch(
            c, content_id, to=tmp_path / "out", peers=(await address(liar), await address(a))
        )
        assert same_files(model, tmp_path / "out")
        liar_id = (await liar.identity()).peer_id
        [fault] = [share for share in fetched.peers if share.fault]
        assert fault.peer_id == liar_id
        assert fault.bytes == 0
        assert any(liar_id in notice.message for notice in (await c.status()).notices)


async def test_a_manifest_with_a_false_sha256_never_becomes_complete(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        honest = await publish(a, model)
        false = _with_false_sha256(a._store, parse_content_id(honest))
        peers = (await address(a),)
        with pytest.raises(DigestMismatch) as caught:
            await fetch(b, content_id_text(false), peers=peers)
        assert caught.value.facts["path"] == "weights.bin"
        # The bytes themselves are genuine: a reader may have them, and honest releases are not
        # harmed.
        async with b.read(
            parse_reference(content_id_text(false)), "weights.bin", 0, 1000
        ) as chunks:
            data = b"".join([chunk async for chunk in chunks])
        assert data == (model / "weights.bin").read_bytes()[:1000]
        await fetch(b, honest, to=tmp_path / "out", peers=peers)
        assert same_files(model, tmp_path / "out")


def _with_false_sha256(store: DiskStore, digest: bytes) -> bytes:
    """A manifest like the honest one, but with another SHA-256 for one file of many chunks."""
    manifest = Manifest.decode(store.get(digest))
    files = [f for page in manifest.pages for f in FilePage.decode(store.get(page.digest)).files]
    changed = []
    for file in files:
        if file.path == "weights.bin":
            record = replace(ObjectRecord.decode(store.get(file.object)), sha256=sha256(b"else"))
            [name] = store.put([record.encode()])
            file = replace(file, object=name, sha256=record.sha256)
        changed.append(file)
    pages = cut_pages(changed)
    root = replace(manifest, pages=tuple(page_ref(page) for page in pages)).encode()
    return store.put([*(page.encode() for page in pages), root])[-1]


class ClaimingStore(DiskStore):
    """A store of a peer that claims any SHA-256 for one file that it holds."""

    claimed: bytes | None = None

    def object_by_sha256(self, sha256: bytes) -> bytes | None:
        return self.claimed or super().object_by_sha256(sha256)


async def test_a_false_claim_of_a_sha256_does_not_hide_the_file(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    other = write_model(tmp_path / "other", seed=7)
    data = (model / "weights.bin").read_bytes()
    store = ClaimingStore(tmp_path / "liar" / "store")
    async with (
        node(tmp_path / "liar", store=store) as liar,
        node(tmp_path / "a") as a,
        node(tmp_path / "b") as b,
    ):
        content_id = await publish(liar, other)
        shown = await liar.show(parse_reference(content_id))
        [weights] = [file for file in shown.files if file.path == "weights.bin"]
        record = replace(ObjectRecord.decode(store.get(weights.object)), sha256=sha256(data))
        [store.claimed] = store.put([record.encode()])
        reference = f"sha256:{sha256(data).hex()}"
        with pytest.raises(NoProvider):  # the claim was found false, and nobody else has it
            await fetch(b, reference, peers=(await address(liar),))
        await publish(a, model)
        fetched = await fetch(b, reference, peers=(await address(liar), await address(a)))
        assert fetched.path.read_bytes() == data


async def test_a_cancelled_fetch_goes_on_from_where_it_was(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=60_000_000)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        request = FetchRequest(
            reference=parse_reference(content_id),
            destination=tmp_path / "out",
            peers=(await address(a),),
        )
        with trio.CancelScope() as scope:

            def cancel_half_way(progress: Progress) -> None:
                if progress.stage == "transfer" and progress.done_bytes > 10_000_000:
                    scope.cancel()

            await b.fetch(request, cancel_half_way)
        first_bytes = (await b.status()).received_bytes
        fetched = await b.fetch(request, ignore)
        assert same_files(model, tmp_path / "out")
        if scope.cancelled_caught:
            assert fetched.bytes_fetched < 61_000_000 - 9_000_000
            assert first_bytes + fetched.bytes_fetched < 61_000_000 + 33_000_000


async def test_other_files_under_the_same_names_are_never_overwritten(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        with pytest.raises(DestinationExists, match=r"README\.md"):
            await fetch(b, content_id, to=tmp_path / "out", peers=(await address(a),))
        assert (tmp_path / "out" / "README.md").read_text() == "mine"
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["README.md"]


async def test_a_second_version_costs_only_what_is_new(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=20_000_000)
    changed = write_model(tmp_path / "changed", size=20_000_000)
    with (changed / "weights.bin").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"x" * 300_000)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        peers = (await address(a),)
        await fetch(b, await publish(a, model), to=tmp_path / "one", peers=peers)
        fetched = await fetch(b, await publish(a, changed), to=tmp_path / "two", peers=peers)
        assert same_files(changed, tmp_path / "two")
        assert fetched.bytes_fetched < 700_000
        assert fetched.bytes_reused > 19_500_000


async def test_pages_of_a_chunk_list_that_did_not_change_are_not_fetched_again(
    tmp_path: Path,
) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        with (tmp_path / version / "weights.bin").open("wb") as file:
            rng = random.Random(1)
            for _ in range(120):
                file.write(rng.randbytes(1 << 20))  # some 6,000 chunks: two pages or three
            file.write(version.encode())

    def documents_bytes(fetched: Fetched) -> int:
        return fetched.bytes_fetched - sum(peer.bytes for peer in fetched.peers)

    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        peers = (await address(a),)
        first = await fetch(b, await publish(a, tmp_path / "one"), peers=peers)
        second = await fetch(b, await publish(a, tmp_path / "two"), peers=peers)
    assert 0 < documents_bytes(second) < 0.7 * documents_bytes(first)


async def test_a_name_is_fetched_through_signed_metadata(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        published = await publish_signed(a, model, tmp_path / "a")
        fetched = await fetch(b, published.reference, to=tmp_path / "out")
        assert same_files(model, tmp_path / "out")
        assert fetched.signer is not None
        assert fetched.signer.publisher_id == published.publisher_id
        assert fetched.signer.version == "1.0"
        assert fetched.reference.startswith(f"p2phub://{published.publisher_id}/tiny@1")


async def test_the_latest_version_is_the_highest(tmp_path: Path) -> None:
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        for seed, version in ((1, "1.9"), (2, "1.10"), (3, "1.2")):
            model = write_model(tmp_path / version, size=1_000_000, seed=seed)
            published = await publish_signed(a, model, tmp_path / "a", version=version)
        link = published.reference.replace("@1.2", "")
        fetched = await fetch(b, link, to=tmp_path / "out")
        assert fetched.signer is not None
        assert fetched.signer.version == "1.10"
        assert same_files(tmp_path / "1.10", tmp_path / "out")


async def test_a_range_fetches_only_the_chunks_it_needs(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=20_000_000)
    data = (model / "weights.bin").read_bytes()
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        reference, peers = parse_reference(content_id), (await address(a),)
        for start, stop in ((0, 1), (7_000_000, 8_048_576), (19_999_999, 30_000_000), (5, 5)):
            async with b.read(reference, "weights.bin", start, stop, peers) as chunks:
                got = b"".join([chunk async for chunk in chunks])
            assert got == data[start:stop]
        assert (await b.status()).received_bytes < 1_500_000
        async with b.read(reference, "README.md", 2, None, peers) as chunks:
            assert b"".join([chunk async for chunk in chunks]) == b"A model\n"


async def test_an_edited_adopted_file_is_withdrawn_and_never_sent(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        with (model / "weights.bin").open("r+b") as file:
            file.write(b"edited")
        with trio.move_on_after(3), pytest.raises(NoProvider):
            await fetch(b, content_id, to=tmp_path / "out", peers=(await address(a),))
        assert not (tmp_path / "out" / "weights.bin").exists()


async def test_metadata_of_another_signer_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=1_000_000)
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        ours = await publish_signed(a, model, tmp_path / "a")
        theirs = await publish_signed(b, model, tmp_path / "b")
        files = a._publishers.follower(ours.publisher_id)
        stolen = {name: files.metadata(name) or b"" for name in ("1.root.json", "timestamp.json")}
        with pytest.raises(TrustError):
            await b.publish_commit(theirs.publisher_id, "tiny", "1.0", stolen, "lab")


async def test_what_was_seen_is_not_rolled_back(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", size=1_000_000)
    async with node(tmp_path / "a") as a:
        published = await publish_signed(a, model, tmp_path / "a", version="1")
        follower = a._publishers.follower(published.publisher_id)
        old = {"timestamp.json": follower.metadata("timestamp.json") or b""}
        await publish_signed(a, model, tmp_path / "a", version="2")
        with pytest.raises(RollbackRefused):
            await a.publish_commit(published.publisher_id, "tiny", "2", old, "lab")


async def test_verify_finds_a_flipped_bit(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)
        fetched = await fetch(b, content_id, peers=(await address(a),))
        reference = parse_reference(content_id)
        assert (await b.verify(reference, ignore)).faults == ()
        weights = fetched.path / "weights.bin"
        weights.chmod(0o600)
        with weights.open("r+b") as file:
            file.seek(1_000_000)
            byte = file.read(1)[0]
            file.seek(1_000_000)
            file.write(bytes([byte ^ 1]))
        verified = await b.verify(reference, ignore)
        [fault] = verified.faults
        assert (fault.path, fault.kind) == ("weights.bin", "CorruptChunk")


@pytest.mark.parametrize("is_in_folder", [True, False])
async def test_many_small_files_show_when_all_are_there(tmp_path: Path, is_in_folder: bool) -> None:
    model = tmp_path / "model"
    rng = random.Random(12)
    for number in range(120):
        path = model / f"{number // 30}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(1, 600_000)))
    out = tmp_path / "out"
    async with node(tmp_path / "a") as a, node(tmp_path / "b") as b:
        content_id = await publish(a, model)

        def look(progress: Progress) -> None:
            if progress.stage == "transfer":
                seen = [path for path in tmp_path.rglob("*.bin") if model not in path.parents]
                assert all(PART_FOLDER in str(path) for path in seen)

        fetched = await b.fetch(
            FetchRequest(
                reference=parse_reference(content_id),
                destination=out if is_in_folder else None,
                peers=(await address(a),),
                room_wait_s=0,
            ),
            look,
        )
        assert same_files(model, fetched.path)
        assert not list(tmp_path.rglob(f"*{PART_FOLDER}*"))
