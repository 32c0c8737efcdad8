"""Many files of one chunk: read in groups, laid out in groups, each as safely as alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2phub.digest import Digest
from p2phub.errors import NotHeld
from p2phub.proto.manifest import FilePage
from p2phub.proto.messages import Run
from p2phub.store.disk import DiskStore
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
