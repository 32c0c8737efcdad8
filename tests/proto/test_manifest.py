"""Manifests and file pages: sorted, counted, bounded, and stable under small changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2phub.digest import EMPTY, digest, sha256
from p2phub.errors import ContentError, HostilePath, MalformedDocument, TooLarge
from p2phub.proto.codec import encode
from p2phub.proto.content import ObjectRecord, SegmentRef
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    FILE_PAGE_RECORDS_MAX,
    FILES_MAX,
    MANIFEST_BYTES_MAX,
    OBJECT_BYTES_MAX,
    RELEASE_BYTES_MAX,
    TAGS_MAX,
)
from p2phub.proto.manifest import (
    FilePage,
    FileRecord,
    Manifest,
    check_pages,
    cut_pages,
    document_kind,
    page_ref,
)

D = b"\x44" * 32
words = st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=8)


@st.composite
def file_records(draw: st.DrawFn, path: str) -> FileRecord:
    count = draw(st.integers(0, 50))
    size = draw(st.integers(count, count * CHUNK_BYTES_MAX))
    return FileRecord(path, size, D, D if size else EMPTY, count)


@st.composite
def releases(draw: st.DrawFn) -> tuple[Manifest, list[FilePage]]:
    names = draw(st.sets(words, min_size=1, max_size=20))
    files = [draw(file_records(f"f/{name}.bin")) for name in names]
    pages = cut_pages(files)
    manifest = Manifest(
        draw(st.sampled_from(["model", "dataset"])),
        draw(st.sampled_from(["", "Apache-2.0", "MIT OR CC0-1.0"])),
        tuple(draw(st.lists(words, max_size=3))),
        tuple(draw(st.lists(words, max_size=3))),
        tuple(draw(st.lists(words, max_size=3))),
        draw(st.sampled_from(["", files[0].path])),
        tuple(map(page_ref, pages)),
    )
    return manifest, pages


@given(releases())
def test_a_release_survives_encoding(release: tuple[Manifest, list[FilePage]]) -> None:
    manifest, pages = release
    found = Manifest.decode(manifest.encode())
    assert found == manifest
    assert found.digest == digest(manifest.encode())
    decoded = [FilePage.decode(page.encode()) for page in pages]
    assert decoded == pages
    files = check_pages(found, decoded)
    assert [f.path for f in files] == sorted(f.path for f in files)
    assert sum(f.size for f in files) == found.data_size


@settings(max_examples=50)
@given(releases(), st.data())
def test_a_changed_byte_is_refused_or_changes_the_name(
    release: tuple[Manifest, list[FilePage]], data: st.DataObject
) -> None:
    for decode, encoded in (
        (Manifest.decode, bytearray(release[0].encode())),
        (FilePage.decode, bytearray(release[1][0].encode())),
    ):
        before = digest(encoded)
        encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
        try:
            found: Any = decode(bytes(encoded))
        except ContentError:
            continue
        assert found.encode() == encoded
        assert digest(encoded) != before


def many(count: int, prefix: str = "img") -> list[FileRecord]:
    return [FileRecord(f"{prefix}/{i:07d}.jpg", 1, D, D, 1) for i in range(count)]


def test_100_000_files_fit_and_one_more_file_changes_one_page() -> None:
    files = many(100_000)
    pages = cut_pages(files)
    root = Manifest("dataset", "", (), (), (), "", tuple(map(page_ref, pages)))
    assert len(root.encode()) <= MANIFEST_BYTES_MAX
    assert all(len(page.encode()) <= DOCUMENT_BYTES_MAX for page in pages)
    assert all(len(page.files) <= FILE_PAGE_RECORDS_MAX for page in pages)
    more = cut_pages([*files, FileRecord("img/0050000b.jpg", 1, D, D, 1)])
    before, after = ({page.encode() for page in each} for each in (pages, more))
    assert len(after - before) <= 2


def test_pages_of_the_longest_paths_stay_within_a_chunk() -> None:
    long = "/".join(["x" * 250] * 4)
    pages = cut_pages([FileRecord(f"{i:05d}{long}", 1, D, D, 1) for i in range(3000)])
    assert len(pages) > 2
    assert all(len(page.encode()) <= DOCUMENT_BYTES_MAX for page in pages)


FILE = ["a.bin", 5, D, D, 1]
PAGE: dict[str, Any] = {"files": [FILE], "type": "p2phub/files", "v": 1}
ROOT: dict[str, Any] = {
    "base": [],
    "card": "",
    "datasets": [],
    "kind": "model",
    "license": "MIT",
    "pages": [[D, 200, 1, 5]],
    "tags": [],
    "type": "p2phub/manifest",
    "v": 1,
}


def test_the_forms_that_are_altered_below_are_good() -> None:
    assert FilePage.decode(encode(PAGE)).files[0].path == "a.bin"
    assert Manifest.decode(encode(ROOT)).file_count == 1


BAD_FILES: dict[str, list[Any]] = {
    "M2 no file": [],
    "M6 out of order": [["b", 5, D, D, 1], ["a", 5, D, D, 1]],
    "M7 twice": [FILE, FILE],
    "a row of four": [FILE[:4]],
    "a row of six": [[*FILE, 1]],
    "M9 a name of 31 bytes": [["a", 5, D, D[:31], 1]],
    "a SHA-256 of 31 bytes": [["a", 5, D[:31], D, 1]],
    "a path of bytes": [[b"a", 5, D, D, 1]],
    "a size of True": [["a", True, D, D, 1]],
    "a count of True": [["a", 5, D, D, True]],
    "a negative size": [["a", -1, D, D, 1]],
    "a negative count": [["a", 0, D, EMPTY, -1]],
    "more chunks than bytes": [["a", 5, D, D, 6]],
    "chunks too large": [["a", CHUNK_BYTES_MAX + 1, D, D, 1]],
    "bytes without a chunk": [["a", 5, D, D, 0]],
    "nothing under another name": [["a", 0, D, D, 0]],
    "too large": [["a", OBJECT_BYTES_MAX + 1, D, D, 1 << 30]],
    "M3 too many": [[f"{i:05d}", 5, D, D, 1] for i in range(FILE_PAGE_RECORDS_MAX + 1)],
}


@pytest.mark.parametrize("files", BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_page_that_cannot_be_is_refused(files: list[Any]) -> None:
    with pytest.raises(MalformedDocument):
        FilePage.decode(encode(PAGE | {"files": files}))


def test_a_page_with_a_hostile_path_is_refused() -> None:
    with pytest.raises(HostilePath):
        FilePage.decode(encode(PAGE | {"files": [["../x", 5, D, D, 1]]}))


BAD_ROOTS: dict[str, dict[str, Any]] = {
    "M2 no page": {"pages": []},
    "an empty page": {"pages": [[D, 200, 0, 0]]},
    "a page row of three": {"pages": [[D, 200, 1]]},
    "a page of True files": {"pages": [[D, 200, True, 5]]},
    "a page of no bytes": {"pages": [[D, 0, 1, 5]]},
    "a page too large": {"pages": [[D, DOCUMENT_BYTES_MAX + 1, 1, 5]]},
    "a page with too many files": {"pages": [[D, 200, FILE_PAGE_RECORDS_MAX + 1, 5]]},
    "M3 too many files": {
        "pages": [[D, 1, FILE_PAGE_RECORDS_MAX, 5]] * (FILES_MAX // FILE_PAGE_RECORDS_MAX + 1)
    },
    "M4 more than a release holds": {"pages": [[D, 200, 1, RELEASE_BYTES_MAX]] * 2},
    "an unknown kind": {"kind": "virus"},
    "M11 version 2": {"v": 2},
    "M12 an unknown key": {"time": 5},
    "too many tags": {"tags": ["a"] * (TAGS_MAX + 1)},
    "a tag too long": {"tags": ["a" * 65]},
    "a tag that is a number": {"tags": [5]},
    "a tag that moves the cursor": {"tags": ["a\x1b[2J"]},
    "a licence that reads backwards": {"license": "\u202eTIM"},
    "a licence too long": {"license": "a" * 257},
    "a base that is no list": {"base": "x"},
    "a card of bytes": {"card": b"README.md"},
}


@pytest.mark.parametrize("change", BAD_ROOTS.values(), ids=list(BAD_ROOTS))
def test_a_root_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedDocument):
        Manifest.decode(encode(ROOT | change))


def test_a_hostile_card_is_refused() -> None:
    with pytest.raises(HostilePath):
        Manifest.decode(encode(ROOT | {"card": "../README.md"}))


def test_a_root_over_its_limit_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        Manifest.decode(b"\x89" + bytes(MANIFEST_BYTES_MAX))


def release_of(*pages: FilePage, card: str = "") -> Manifest:
    return Manifest("model", "", (), (), (), card, tuple(map(page_ref, pages)))


def page_of(*paths: str) -> FilePage:
    return FilePage(tuple(FileRecord(path, 5, D, D, 1) for path in paths))


def test_pages_that_are_not_as_announced_are_refused() -> None:
    with pytest.raises(MalformedDocument):
        check_pages(release_of(page_of("a", "b")), [page_of("a")])


def test_pages_out_of_order_are_refused() -> None:
    pages = [page_of("b"), page_of("a")]
    with pytest.raises(MalformedDocument):
        check_pages(release_of(*pages), pages)


def test_m19_paths_that_collide_over_two_pages_are_refused() -> None:
    pages = [page_of("Model.bin"), page_of("model.bin")]
    with pytest.raises(HostilePath):
        check_pages(release_of(*pages), pages)


def test_a_card_that_no_file_is_is_refused() -> None:
    pages = [page_of("a")]
    with pytest.raises(MalformedDocument):
        check_pages(release_of(*pages, card="README.md"), pages)


def test_bytes_tell_what_they_are() -> None:
    record = ObjectRecord("cdc-16k/1", 1000, sha256(b""), (SegmentRef(D, 300, 2, 1000),))
    assert document_kind(encode(ROOT)) == "manifest"
    assert document_kind(record.encode()) == "object"
    for other in (b"", b"\x80", b"weights", encode(PAGE), encode({"type": 1}), encode([1])):
        assert document_kind(other) is None
