"""The vectors bind together the reference, the fast code and the files in proto/vectors."""

from __future__ import annotations

import json
from array import array
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from p2phub import errors
from p2phub.core.content.cutting import cut_segments, cut_tensors, is_one_chunk
from p2phub.core.content.release import ReleaseTerms
from p2phub.core.content.tensors import tensor_borders
from p2phub.digest import digest
from p2phub.proto.codec import decode, encode
from p2phub.proto.content import TENSOR_RULE, ObjectRecord, Segment
from p2phub.proto.content_id import content_id_text, parse_content_id
from p2phub.proto.fetch import ChunksWanted, MetaWanted
from p2phub.proto.file_paths import check_together
from p2phub.proto.frames import PayloadHeader
from p2phub.proto.limits import DOCUMENT_BYTES_MAX
from p2phub.proto.manifest import FilePage, Manifest
from p2phub.proto.messages import decode_message, encode_message
from p2phub.store.ingest import ingest_folder, ingested
from p2phub.store.reading import Pipeline
from tests.proto.material import material
from tests.proto.write_vectors import VECTORS, all_vectors, read


@cache
def vectors(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="ascii"))


def cases(name: str, part: str) -> Any:
    """Each case of one part of a file, as parameters of a test."""
    rows = vectors(name)[part] if part else vectors(name)
    return pytest.mark.parametrize("case", [pytest.param(row, id=label(row)) for row in rows])


def label(row: dict[str, Any]) -> str:
    return " ".join(str(row.get(key, "")) for key in ("kind", "name", "hex"))[:60].strip()


def error_of(case: dict[str, Any]) -> type[errors.P2phubError]:
    found: type[errors.P2phubError] = getattr(errors, case["error"])
    return found


def test_the_vectors_are_what_the_reference_writes_today() -> None:
    written = all_vectors()
    assert {path.name for path in VECTORS.glob("*.json")} == set(written)
    for name, text in written.items():
        assert (VECTORS / name).read_text(encoding="ascii") == text, name


# ---- codec --------------------------------------------------------------------------------------


@cases("codec", "good")
def test_a_value_has_the_encoding_of_the_vector(case: dict[str, Any]) -> None:
    value, data = read(case["value"]), bytes.fromhex(case["hex"])
    assert encode(value) == data
    assert decode(data, size_max=DOCUMENT_BYTES_MAX) == value


@cases("codec", "bad")
def test_a_bad_encoding_is_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    with pytest.raises(error_of(case)):
        decode(bytes.fromhex(case["hex"]), size_max=DOCUMENT_BYTES_MAX)


@cases("content_ids", "good")
def test_a_content_id_is_that_of_the_vector(case: dict[str, Any]) -> None:
    name = bytes.fromhex(case["digest"])
    assert content_id_text(name) == case["text"]
    assert parse_content_id(case["text"]) == name


@cases("content_ids", "bad")
def test_a_bad_content_id_is_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    with pytest.raises(error_of(case)):
        parse_content_id(case["text"])


# ---- documents ----------------------------------------------------------------------------------

DOCUMENTS: dict[str, Any] = {
    "object": ObjectRecord,
    "segment": Segment,
    "file page": FilePage,
    "manifest": Manifest,
}


@cases("documents", "good")
def test_a_document_is_read_and_written_as_the_vector_has_it(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["hex"])
    assert DOCUMENTS[case["kind"]].decode(data).encode() == data
    assert digest(data).hex() == case["digest"]


@cases("documents", "bad")
def test_a_bad_document_is_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    with pytest.raises(error_of(case)) as caught:
        DOCUMENTS[case["kind"]].decode(bytes.fromhex(case["hex"]))
    assert type(caught.value) is error_of(case)


@cases("documents", "collisions")
def test_paths_that_collide_are_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    with pytest.raises(error_of(case)):
        check_together(case["paths"])


# ---- chunking -----------------------------------------------------------------------------------


@cases("chunking", "")
def test_a_file_is_cut_and_named_as_the_vector_says(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(material(case["content"]))
    with Pipeline(lambda size: None) as pipeline:
        cut = pipeline.read(path)
    file = ingested("file", path, cut)
    assert list(cut.lengths) == case["lengths"]
    assert (cut.rule, cut.stamp.size) == (case["rule"], case["size"])
    assert file.record.sha256.hex() == case["sha256"]
    assert file.record.object.hex() == case["object"]
    if case["record"]:
        assert file.documents[-1].hex() == case["record"]
    else:
        assert file.documents == ()


@cases("chunking", "")
def test_tensors_are_found_as_the_vector_says(case: dict[str, Any]) -> None:
    data = material(case["content"])
    borders = tensor_borders(data, len(data))
    if case["rule"] == TENSOR_RULE:
        assert isinstance(borders, array)
        assert list(cut_tensors(borders)) == case["lengths"]
    elif not is_one_chunk(len(data)):
        assert borders is None


@cases("segments", "")
def test_a_chunk_list_is_paged_as_the_vector_says(case: dict[str, Any]) -> None:
    count = case["count"]
    if "all_digests" in case:
        digests, first = bytes.fromhex(case["all_digests"]) * count, 0
    else:
        first = case["first"]
        digests = b"".join(digest(i.to_bytes(8, "big")) for i in range(first, first + count))
    lengths = array("I", [1 + i % 999 for i in range(first, first + count)])
    pages = list(cut_segments(digests, lengths))
    assert [len(page) for page in pages] == case["counts"]
    assert b"".join(page.digests for page in pages) == digests
    if "digest" in case:
        assert digest(pages[0].encode()).hex() == case["digest"]


@cases("releases", "")
def test_a_folder_has_the_content_id_of_the_vector(case: dict[str, Any], tmp_path: Path) -> None:
    files = {path: material(recipe) for path, recipe in case["files"].items()} or {
        f"data/{number // 100:03}/{number:05}.txt": str(number).encode() for number in range(3_000)
    }
    for path, data in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    terms = {key: tuple(v) if isinstance(v, list) else v for key, v in case["terms"].items()}
    made = ingest_folder(tmp_path, ReleaseTerms(**terms))
    assert made.release.root.hex() == case["manifest"]
    assert content_id_text(made.digest) == case["content_id"]
    assert [page.file_count for page in made.release.manifest.pages] == case["page_counts"]
    assert len(made.documents) == case["documents"]


# ---- the wire -----------------------------------------------------------------------------------


@cases("messages", "good")
def test_a_message_is_read_and_written_as_the_vector_has_it(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["hex"])
    assert encode_message(decode_message(data)) == data


@cases("messages", "bad")
def test_a_bad_message_is_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    with pytest.raises(error_of(case)):
        decode_message(bytes.fromhex(case["hex"]))


@cases("byte_channel", "good")
def test_a_payload_header_is_that_of_the_vector(case: dict[str, Any]) -> None:
    header = PayloadHeader(case["request_id"], case["first_chunk"], case["length"])
    assert header.encode().hex() == case["hex"]
    assert PayloadHeader.decode(bytes.fromhex(case["hex"])) == header


@cases("byte_channel", "bad")
def test_a_bad_payload_header_is_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    with pytest.raises(error_of(case)):
        PayloadHeader.decode(bytes.fromhex(case["hex"]))


@cases("fetch", "good")
def test_a_request_is_read_and_written_as_the_vector_has_it(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["hex"])
    kind = ChunksWanted if case["value"][0] == "chunks" else MetaWanted
    assert kind.decode(data).encode() == data


@cases("fetch", "bad")
def test_a_bad_request_is_refused_as_the_vector_says(case: dict[str, Any]) -> None:
    for kind in (ChunksWanted, MetaWanted):
        with pytest.raises(error_of(case)):
            kind.decode(bytes.fromhex(case["hex"]))
