"""From folder to manifest: the same everywhere, every byte counted, nothing half-done."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2phub.core.content.release import ReleaseTerms
from p2phub.digest import EMPTY, digest, sha256
from p2phub.errors import (
    FileChanged,
    HostilePath,
    NoSuchFile,
    NothingToPublish,
    TooLarge,
    UnpublishableFile,
    UsageError,
)
from p2phub.proto import reference
from p2phub.proto.content import ObjectRecord, Segment
from p2phub.proto.limits import CDC_BYTES_MAX, KIB, MIB
from p2phub.proto.manifest import FilePage, Manifest, check_pages
from p2phub.store.folder import list_folder
from p2phub.store.ingest import IngestResult, Progress, ingest_files, ingest_folder
from p2phub.store.reading import PIPELINE_BYTES, Pipeline, Stopped
from tests.proto.material import random_bytes, safetensors_header

TERMS = ReleaseTerms(kind="model", license="MIT")


def lay_out(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def model() -> dict[str, bytes]:
    header = safetensors_header({"a": 700_000, "b": 100, "c": 2_500_000, "d": 5_000})
    return {
        "README.md": b"# A model\n",
        "config.json": b"{}",
        "weights/model.safetensors": header + random_bytes("w", 3_205_100),
        "weights/other.bin": random_bytes("o", 3_000_001),
        "vocab.txt": b"word\n" * 40_000,
        "empty": b"",
        "one_block": random_bytes("b", MIB),
        "one_block_and_more": random_bytes("b", MIB + 1),
        "just_over_a_chunk": random_bytes("c", 64 * KIB + 1),
    }


def ingest_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("ingest")]


def chunk_bytes(result: IngestResult, files: dict[str, bytes]) -> dict[bytes, bytes]:
    """Every chunk and document of a release by its name, from the result and the files alone."""
    held = {digest(document): document for document in result.documents}
    for source in result.sources:
        data, record = files[source.record.path], source.record
        if not record.has_record:
            held[record.object] = data
            continue
        start = 0
        for ref in ObjectRecord.decode(held[record.object]).segments:
            segment = Segment.decode(held[ref.digest])
            assert (len(segment), segment.data_size) == (ref.chunk_count, ref.data_size)
            for index, length in enumerate(segment.lengths):
                held[segment.digest_of(index)] = data[start : start + length]
                start += length
    return held


def test_every_byte_is_found_again_through_the_manifest(tmp_path: Path) -> None:
    files = model()
    result = ingest_folder(lay_out(tmp_path, files), TERMS)
    held = chunk_bytes(result, files)
    assert all(digest(data) == name for name, data in held.items())
    manifest = Manifest.decode(held[result.digest])
    records = check_pages(manifest, [FilePage.decode(held[ref.digest]) for ref in manifest.pages])
    assert [record.path for record in records] == sorted(files)
    for record in records:
        data = files[record.path]
        assert (record.size, record.sha256) == (len(data), sha256(data))
        if record.has_record:
            refs = ObjectRecord.decode(held[record.object]).segments
            segments = [Segment.decode(held[ref.digest]) for ref in refs]
            names = [s.digest_of(i) for s in segments for i in range(len(s))]
            assert b"".join(held[name] for name in names) == data
            assert len(names) == record.chunk_count
    assert result.size == sum(map(len, files.values()))
    assert result.chunk_count == sum(record.chunk_count for record in records)
    assert manifest.card == "README.md"
    assert result.rules == {"tensor-1m/1": 1, "cdc-16k/1": 5}


def test_the_reference_makes_the_same_documents(tmp_path: Path) -> None:
    files = model()
    result = ingest_folder(lay_out(tmp_path, files), TERMS)
    terms = {"kind": "model", "license": "MIT", "card": "README.md"}
    slow = reference.release_documents(files, terms | {"tags": [], "base": [], "datasets": []})
    assert set(result.documents) == set(slow)
    assert result.documents[-1] == slow[-1]


@settings(max_examples=15)
@given(
    st.integers(64 * KIB + 1, 3 * MIB + 9),
    st.sampled_from(["random", "period", "zeros", "mixed"]),
)
def test_plain_bytes_are_cut_as_the_reference_cuts_them(
    tmp_path_factory: pytest.TempPathFactory, size: int, kind: str
) -> None:
    random = random_bytes("x", size)
    mixed = (random[: size // 3] + bytes(size))[:size]
    made = {"random": random, "zeros": bytes(size), "mixed": mixed}
    made["period"] = (random[:1000] * (size // 1000 + 1))[:size]
    data = made[kind]
    path = tmp_path_factory.mktemp("cut") / "file"
    path.write_bytes(data)
    with Pipeline(lambda _: None) as pipeline:
        cut = pipeline.read(path)
    assert list(cut.lengths) == reference.cut_by_content(data)
    assert max(cut.lengths) <= CDC_BYTES_MAX
    starts = accumulate(cut.lengths, initial=0)
    names = [digest(data[s : s + n]) for s, n in zip(starts, cut.lengths, strict=False)]
    assert cut.digests == b"".join(names)
    assert cut.sha256 == sha256(data)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_does_not_show(tmp_path: Path, threads: int) -> None:
    lay_out(tmp_path, model() | {f"small/{i:04}.txt": b"%d" % i for i in range(700)})
    first = ingest_folder(tmp_path, TERMS)
    again = ingest_folder(tmp_path, TERMS, threads=threads)
    assert again.digest == first.digest
    assert again.sources == first.sources
    assert ingest_threads() == []


def test_documents_go_to_put_and_are_not_kept(tmp_path: Path) -> None:
    lay_out(tmp_path, model())
    given_away: list[bytes] = []

    def put(documents: Sequence[bytes]) -> None:
        given_away.extend(documents)

    result = ingest_folder(tmp_path, TERMS, put=put)
    assert result.documents == ()
    assert set(given_away) == set(ingest_folder(tmp_path, TERMS).documents)
    assert given_away[-1] == result.release.root


def test_an_empty_file_has_no_chunk_and_a_fixed_name(tmp_path: Path) -> None:
    result = ingest_folder(lay_out(tmp_path, {"empty": b""}), TERMS)
    (source,) = result.sources
    assert source.record.object == EMPTY
    assert (source.record.chunk_count, source.record.size) == (0, 0)
    assert result.size == 0


def test_equal_files_have_one_object_wherever_they_lie(tmp_path: Path) -> None:
    data = random_bytes("same", 200_000)
    result = ingest_folder(lay_out(tmp_path, {"a": data, "b/c": data}), TERMS)
    assert len({source.record.object for source in result.sources}) == 1


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    files = model()
    seen: list[Progress] = []
    ingest_folder(lay_out(tmp_path, files), TERMS, on_progress=seen.append)
    total = sum(map(len, files.values()))
    assert seen[-1] == Progress(total, total, len(files), len(files))
    assert [p.bytes_done for p in seen] == sorted(p.bytes_done for p in seen)


# ---- what must stop it --------------------------------------------------------------------------


def test_a_file_that_grew_after_the_folder_was_looked_through_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, model())
    listing = list_folder(tmp_path)
    with (tmp_path / "weights/other.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(FileChanged) as caught:
        list(ingest_files(listing))
    assert "other.bin" in str(caught.value)
    assert ingest_threads() == []


@pytest.mark.parametrize("size", [1_000, 200_000, 4 * MIB])
@pytest.mark.parametrize("change", ["grow", "shrink", "edit"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, size: int, change: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(random_bytes("x", size))
    os.utime(path, ns=(0, 0))

    def alter(_: int) -> None:
        if change == "grow":
            os.truncate(path, size + 1)
        elif change == "shrink":
            os.truncate(path, size // 2)
        else:
            path.write_bytes(random_bytes("y", size))

    with Pipeline(alter) as pipeline, pytest.raises(FileChanged):
        pipeline.read(path)


def test_a_file_removed_or_replaced_by_a_link_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a": b"1", "b": b"2"})
    listing = list_folder(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(FileChanged):
        list(ingest_files(listing))
    (tmp_path / "a").symlink_to(tmp_path / "b")
    with pytest.raises(UnpublishableFile):
        list(ingest_files(listing))


def test_a_file_that_appears_meanwhile_is_noticed(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a": b"1"})

    def appear(progress: Progress) -> None:
        if progress.files_done == progress.files_total:
            (tmp_path / "b").write_bytes(b"2")

    with pytest.raises(FileChanged):
        ingest_folder(tmp_path, TERMS, on_progress=appear)


def test_stopping_ends_all_threads(tmp_path: Path) -> None:
    lay_out(tmp_path, model() | {f"{i:04}": b"x" * i for i in range(2_000)})
    with pytest.raises(Stopped):
        ingest_folder(tmp_path, TERMS, cancelled=lambda: True)
    assert ingest_threads() == []


def test_an_iterator_closed_early_ends_all_threads(tmp_path: Path) -> None:
    lay_out(tmp_path, model() | {f"{i:05}": b"x" for i in range(6_000)})
    files = ingest_files(list_folder(tmp_path))
    next(files)
    files.close()
    assert ingest_threads() == []


def test_a_refusal_of_the_store_ends_all_threads(tmp_path: Path) -> None:
    lay_out(tmp_path, model())

    def refuse(_: Sequence[bytes]) -> None:
        raise TooLarge("no")

    with pytest.raises(TooLarge):
        ingest_folder(tmp_path, TERMS, put=refuse)
    assert ingest_threads() == []


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingToPublish):
        ingest_folder(tmp_path, TERMS)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"file": b"1"})
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(NoSuchFile):
            ingest_folder(path, TERMS)


def test_terms_that_cannot_be_written_down_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a": b"1"})
    for terms in (
        ReleaseTerms(kind="virus"),
        ReleaseTerms(card="CARD.md"),
        ReleaseTerms(tags=("x" * 65,)),
        ReleaseTerms(tags=("x",) * 65),
        ReleaseTerms(license="\x1b[2J"),
    ):
        with pytest.raises(UsageError):
            ingest_folder(tmp_path, terms)


def test_terms_too_long_for_the_root_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a": b"1"})
    long = tuple("x" * 512 for _ in range(64))
    with pytest.raises(TooLarge):
        ingest_folder(tmp_path, ReleaseTerms(base=long, datasets=long))


def test_a_hostile_name_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    lay_out(tmp_path, {"a" * 20: b"1", "con.txt": b"2"})
    read: list[Progress] = []
    with pytest.raises(HostilePath):
        ingest_folder(tmp_path, TERMS, on_progress=read.append)
    assert read == []


def test_buffers_stay_within_64_mib_for_eight_readers() -> None:
    assert 8 * PIPELINE_BYTES <= 64 * MIB
