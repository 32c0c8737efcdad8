"""A disk that refuses: every call the store makes meets every refusal, and the store says so and
lives on.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.errors import StoreError, StoreFailed, StoreFull
from p2phub.paths import PART_FOLDER
from p2phub.store.base import Method, Place
from p2phub.store.disk import DiskStore
from p2phub.store.file_system import AnyPath, FileSystem
from tests.store.sample_files import fetch, read_all, sample
from tests.store.small_life import BIG, SmallLife

REFUSALS = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EIO: StoreFailed,
    errno.EROFS: StoreFailed,
}


class RefusingFileSystem(FileSystem):
    """Refuses one call, or all calls of a name while `refuses` holds it."""

    def __init__(self, refuse_at: int = 0, code: int = errno.EIO) -> None:
        self.calls: list[str] = []
        self.code = code
        self.refuses: set[str] = set()
        self._refuse_at = refuse_at

    def reach(self, call: str, path: AnyPath) -> None:
        self.calls.append(call)
        if len(self.calls) == self._refuse_at or call in self.refuses:
            raise OSError(self.code, os.strerror(self.code), str(path))


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: syncs are not what is tested here."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def live_with_one_refusal(root: Path, refuse_at: int, code: int) -> bool:
    """Whether the refusal was met. After it the same store lives its life to the end."""
    root.mkdir()
    files = RefusingFileSystem(refuse_at, code)
    life = SmallLife(root)
    refused: StoreError | None = None
    try:
        store = DiskStore(root / "store", files=files)
    except StoreError as error:
        refused = error
        store = DiskStore(root / "store", files=files)
    try:
        life.live(store)
    except StoreError as error:
        refused = error
    if refused is not None:
        assert type(refused) is REFUSALS[code]
        assert refused.facts["errno"] == code
        assert refused.facts["path"]
    life.check(store)
    again = SmallLife(root)
    again.live(store)
    again.check(store)
    store.close()
    store = DiskStore(root / "store")
    again.check(store)
    store.close()
    return len(files.calls) >= refuse_at


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_refusal_of_any_call_is_named_and_survived(root: Path, code: int) -> None:
    refuse_at = 1
    while live_with_one_refusal(root / f"{refuse_at}", refuse_at, code):
        refuse_at += 1 if refuse_at < 20 else 2
        if refuse_at > 150:
            break
    assert refuse_at > 100


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EROFS])
def test_other_refusals_are_named_and_survived(root: Path, code: int) -> None:
    for refuse_at in range(1, 140, 9):
        live_with_one_refusal(root / f"{refuse_at}", refuse_at, code)


def test_what_a_failed_sync_lost_is_asked_for_again(root: Path) -> None:
    files = RefusingFileSystem()
    store = DiskStore(root / "store", files=files)
    file = sample(20_000)
    store.put(file.documents)
    store.open_part(file.object)
    first, second, _ = file.runs()
    data = memoryview(file.data)
    store.span_writer([first]).write(0, 8, data[:8000])
    store.checkpoint()
    store.span_writer([second]).write(0, 8, data[8000:16_000])
    files.refuses = {"sync"}
    with pytest.raises(StoreFailed):
        store.checkpoint()
    files.refuses = set()
    assert list(store.missing(first.page)) == []
    assert list(store.missing(second.page)) == list(range(8))
    assert store.checkpoint() == []
    fetch(store, file)
    store.finish(file.object)
    assert read_all(store, file) == file.data
    store.close()


def test_what_a_failed_sync_of_a_pack_lost_is_asked_for_again(root: Path) -> None:
    files = RefusingFileSystem()
    store = DiskStore(root / "store", files=files)
    (kept,) = store.put([b"kept"])
    files.refuses = {"sync"}
    with pytest.raises(StoreFailed):
        store.put([b"lost"])
    files.refuses = set()
    assert store.get(kept) == b"kept"
    (name,) = store.put([b"lost"])
    assert store.get(name) == b"lost"
    store.close()
    store = DiskStore(root / "store")
    assert (store.get(kept), store.get(name)) == (b"kept", b"lost")
    store.close()


def test_a_commit_that_failed_is_made_by_the_next_checkpoint(root: Path) -> None:
    files = RefusingFileSystem(code=errno.ENOSPC)
    store = DiskStore(root / "store", files=files)
    store.put(BIG.documents)
    store.open_part(BIG.object)
    run = BIG.runs()[0]
    store.span_writer([run]).write(0, 16, memoryview(BIG.data[:16_000]))
    files.refuses = {"commit"}
    with pytest.raises(StoreFull):
        store.checkpoint()
    files.refuses = set()
    assert [(page, list(some)) for page, some in store.checkpoint()] == [
        (run.page, list(range(16)))
    ]
    store.close()


def test_a_part_larger_than_the_room_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    class SmallDisk(FileSystem):
        def free_bytes(self, path: AnyPath) -> int:
            return 1 << 20

    store = DiskStore(tmp_path / "store", files=SmallDisk())
    file = sample(20_000)
    store.put(file.documents)
    with pytest.raises(StoreFull) as caught:
        store.open_part(file.object)
    assert caught.value.facts["needed"] == 20_000
    assert list((tmp_path / "store" / "part").iterdir()) == []
    assert store.status(file.object) is None
    store.close()


def test_copies_that_find_no_room_are_refused_before_their_first_byte(tmp_path: Path) -> None:
    class SmallDisk(RefusingFileSystem):
        def free_bytes(self, path: AnyPath) -> int:
            return 50_000

        def clone(self, source: int, target: int, path: AnyPath) -> bool:
            return False

    files = SmallDisk()
    store = DiskStore(tmp_path / "store", files=files)
    samples = [sample(20_000, seed=seed) for seed in range(2)]
    for number, file in enumerate(samples):
        store.take([file.source(tmp_path / str(number))], file.documents)
    records = [file.file_record(str(number)) for number, file in enumerate(samples)]
    files.calls.clear()
    with pytest.raises(StoreFull) as caught:
        store.materialize(records, tmp_path / "tree")
    assert "write" not in files.calls
    facts = caught.value.facts
    assert (facts["needed"], facts["free"], facts["path"]) == (80_000, 50_000, str(tmp_path))
    assert store.materialize(records[:1], tmp_path / "tree").methods == {Method.COPY: 1}
    store.close()


def test_an_error_is_one_of_two_kinds(tmp_path: Path) -> None:
    for code, kind in REFUSALS.items():
        files = RefusingFileSystem(code=code)
        files.refuses = {"mkdir"}
        with pytest.raises(kind):
            DiskStore(tmp_path / str(code), files=files)


def test_after_a_refused_write_the_part_is_opened_anew_and_nothing_unsynced_is_believed(
    root: Path,
) -> None:
    files = RefusingFileSystem()
    store = DiskStore(root / "store", files=files)
    file = sample(20_000)
    store.put(file.documents)
    store.open_part(file.object, folder=root / "out")
    first, second, _ = file.runs()
    data = memoryview(file.data)
    store.span_writer([first]).write(0, 8, data[:8000])
    files.refuses = {"write"}
    with pytest.raises(StoreFailed):
        store.span_writer([second]).write(0, 8, data[8000:16_000])
    files.refuses = set()
    # The disk was pulled out and is back: the same name is another file, without what was unsynced.
    (part,) = (root / "out" / PART_FOLDER).iterdir()
    part.unlink()
    part.write_bytes(bytes(20_000))
    assert store.checkpoint() == []
    assert list(store.missing(first.page)) == list(range(8))
    fetch(store, file, root / "out")
    assert part.read_bytes() == file.data
    store.finish(file.object, place=Place(root / "out", "file"))
    assert (root / "out" / "file").read_bytes() == file.data
    store.close()


def test_a_part_whose_whole_folder_is_gone_is_waited_for_and_not_forgotten(root: Path) -> None:
    store = DiskStore(root / "store")
    file = sample(20_000)
    store.put(file.documents)
    store.open_part(file.object, folder=root / "out")
    first, second, _ = file.runs()
    data = memoryview(file.data)
    store.span_writer([first]).write(0, 8, data[:8000])
    store.close()
    (root / "out").rename(root / "away")
    store = DiskStore(root / "store")  # which looks at every part
    with pytest.raises(StoreFailed) as away:
        store.span_writer([second]).write(0, 8, data[8000:16_000])
    assert away.value.facts["errno"] == errno.ENOENT
    with pytest.raises(StoreFailed):
        store.span_reader([first]).read(0, 8, memoryview(bytearray(8000)))
    assert store.withdrawn() == []
    (root / "away").rename(root / "out")
    store.open_part(file.object, folder=root / "out")
    assert list(store.missing(first.page)) == []
    fetch(store, file, root / "out")
    store.finish(file.object, place=Place(root / "out", "file"))
    # Where the user took it away for good, it is begun anew.
    shutil.rmtree(root / "out")
    store.recheck()
    store.open_part(file.object, folder=root / "out")
    assert list(store.missing(first.page)) == list(range(8))
    store.close()
