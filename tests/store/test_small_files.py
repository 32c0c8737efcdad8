"""Many files of one chunk: read in groups, laid out in groups, each as safely as alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2phub.digest import Digest
from p2phub.errors import DigestMismatch, NotHeld
from p2phub.proto.manifest import FilePage
from p2phub.proto.messages import Run
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import FileSystem
from p2phub.store.merging import merge_tree
from tests.store.sample_files import SampleFile, sample

COUNT = 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DiskStore]:
    opened = DiskStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def files() -> list[SampleFile]:
    return [sample(900, seed=seed) for seed in range(COUNT)]


def put_page(store: DiskStore, files: list[SampleFile]) -> Digest:
    records = [file.file_record(f"{number:02}") for number, file in enumerate(files)]
    [name] = store.put([FilePage(tuple(records)).encode()])
    return name


def take_half(store: DiskStore, files: list[SampleFile], folder: Path) -> None:
    """Every other file lies in a pack, the rest where the user has it."""
    store.put([file.data for file in files[::2]])
    store.take([file.source(folder / f"mine{number}") for number, file in enumerate(files[1::2])])


def test_files_in_packs_and_in_folders_are_read_in_one_go(
    store: DiskStore, files: list[SampleFile], tmp_path: Path
) -> None:
    take_half(store, files, tmp_path)
    data = bytearray(900 * COUNT)
    reader = store.span_reader([Run(put_page(store, files), 0, COUNT)])
    reader.read(0, COUNT, memoryview(data))
    assert data == b"".join(file.data for file in files)


def test_a_file_that_was_edited_meanwhile_is_not_read_and_told_of(
    store: DiskStore, files: list[SampleFile], tmp_path: Path
) -> None:
    take_half(store, files, tmp_path)
    reader = store.span_reader([Run(put_page(store, files), 0, COUNT)])
    path = tmp_path / "mine3"
    path.write_bytes(bytes(900))
    os.utime(path, ns=(1, 1))
    data = bytearray(900 * COUNT)
    with pytest.raises(NotHeld):
        reader.read(0, COUNT, memoryview(data))
    [told] = store.withdrawn()
    assert told.path == path
    reader.read(0, 7, memoryview(data)[: 7 * 900])
    assert data[: 7 * 900] == b"".join(file.data for file in files[:7])


def test_a_page_that_lies_about_a_length_gets_no_bytes(
    store: DiskStore, files: list[SampleFile]
) -> None:
    store.put([file.data for file in files])
    lie = replace(files[0].file_record("lie"), size=899)
    [page] = store.put([FilePage((lie,)).encode()])
    with pytest.raises(NotHeld):
        store.span_reader([Run(page, 0, 1)]).read(0, 1, memoryview(bytearray(899)))


def test_many_files_come_beside_those_that_are_there(
    store: DiskStore, files: list[SampleFile], tmp_path: Path
) -> None:
    take_half(store, files, tmp_path)
    out = tmp_path / "out"
    (out / "both").mkdir(parents=True)
    (out / "both" / "mine").write_bytes(b"mine")
    records = [
        file.file_record(f"{'both' if number % 3 else 'new/deep'}/{number:02}")
        for number, file in enumerate(files)
    ]
    placement = store.place_files(sorted(records, key=lambda record: record.path), out)
    assert sum(placement.methods.values()) == COUNT
    assert [(out / record.path).read_bytes() for record in records] == [f.data for f in files]
    assert (out / "both" / "mine").read_bytes() == b"mine"
    assert sorted(path.name for path in out.iterdir()) == ["both", "new"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder, text in ((source, b"ours"), (target, b"theirs")):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_bytes(text)
    with pytest.raises(FileExistsError) as caught:
        merge_tree(FileSystem(), source, target)
    assert caught.value.filename == str(target / "deep" / "file")
    assert (target / "deep" / "file").read_bytes() == b"theirs"


def test_a_link_to_a_folder_is_in_the_way(tmp_path: Path) -> None:
    source, target, outside = tmp_path / "source", tmp_path / "target", tmp_path / "outside"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_bytes(b"ours")
    target.mkdir()
    outside.mkdir()
    (target / "deep").symlink_to(outside)
    with pytest.raises(FileExistsError):
        merge_tree(FileSystem(), source, target)
    assert list(outside.iterdir()) == []


def test_a_manifest_that_lies_about_one_of_many_is_found_out(
    store: DiskStore, files: list[SampleFile], tmp_path: Path
) -> None:
    store.put([file.data for file in files])
    records = [file.file_record(f"{number:02}") for number, file in enumerate(files)]
    records[7] = replace(records[7], sha256=bytes(32))
    with pytest.raises(DigestMismatch):
        store.place_files(records, tmp_path / "out")
    assert not (tmp_path / "out").exists()
