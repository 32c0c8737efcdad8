"""A short life of a store that does everything once, and what must hold whenever it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from p2phub.errors import NotHeld
from p2phub.proto.messages import Run
from p2phub.store.base import ObjectState, Place, Release, Store
from tests.store.sample_files import SampleFile, read_all, runs_of_bits, sample, some_bytes

BIG = sample(40_500, segment_chunks=16)
PLACED = sample(20_000, seed=2)
TAKEN = sample(30_000, seed=3)
SMALL = sample(900, seed=4)
SHARED = SampleFile(BIG.data[:16_000] + some_bytes(5000, 5), (1000,) * 21, 16)
FILES = (BIG, PLACED, TAKEN, SHARED)


@dataclass
class SmallLife:
    """Carries out the life below `root`; `facts` are what the store has promised so far."""

    root: Path
    facts: dict[str, Callable[[Store], bool]] = field(default_factory=dict)

    def live(self, store: Store) -> None:
        self._put(store)
        self._fetch(store)
        self._fetch_into_folder(store)
        self._take(store)
        self._reuse(store)
        self._keep(store)

    def check(self, store: Store) -> None:
        """Promises kept, and not one chunk believed that is not there and right."""
        for name, is_kept in self.facts.items():
            assert is_kept(store), f"forgotten: {name}"
        for file in FILES:
            status = store.status(file.object)
            for page, segment, base in zip(
                file.pages, file.segments, range(0, 1000, file.segment_chunks), strict=False
            ):
                for index in runs_of_bits(store.held(page) or b"", len(segment)):
                    into = memoryview(bytearray(segment.lengths[index]))
                    store.span_reader([Run(page, index, index + 1)]).read(0, 1, into)
                    assert into == file.chunks[base + index]
            if status is not None and status.state is ObjectState.COMPLETE:
                assert read_all(store, file) == file.data
        assert store.withdrawn() == []

    def _put(self, store: Store) -> None:
        store.put([SMALL.data, *BIG.documents])
        self.facts["put"] = lambda store: store.get(SMALL.object) == SMALL.data

    def _fetch(self, store: Store) -> None:
        store.open_part(BIG.object)
        first, second, third = BIG.runs()
        data = memoryview(BIG.data)
        store.span_writer([first]).write(0, 16, data[:16_000])
        store.checkpoint()
        self.facts["first segment"] = lambda store: list(store.missing(first.page)) == []
        store.span_writer([second]).write(0, 16, data[16_000:32_000])
        store.span_writer([third]).write(0, 9, data[32_000:])
        store.finish(BIG.object)
        self.facts["big"] = lambda store: read_all(store, BIG) == BIG.data
        store.materialize(
            [BIG.file_record("big"), SMALL.file_record("small")], self.root / "releases" / "one"
        )
        self.facts["tree"] = lambda _: (
            (self.root / "releases" / "one" / "big").read_bytes() == BIG.data
            and (self.root / "releases" / "one" / "small").read_bytes() == SMALL.data
        )

    def _fetch_into_folder(self, store: Store) -> None:
        out = self.root / "out"
        store.put(PLACED.documents)
        store.open_part(PLACED.object, folder=out)
        writer = store.span_writer(PLACED.runs())
        writer.write(0, 20, memoryview(PLACED.data))
        store.finish(PLACED.object, place=Place(out, "deep/placed"))
        self.facts["placed"] = lambda store: (
            (out / "deep" / "placed").read_bytes() == PLACED.data
            and read_all(store, PLACED) == PLACED.data
        )
        store.place_files([SMALL.file_record("small")], out)
        self.facts["small"] = lambda _: (out / "small").read_bytes() == SMALL.data

    def _take(self, store: Store) -> None:
        path = self.root / "taken"
        self.facts.pop("taken", None)  # the user replaces the file
        path.unlink(missing_ok=True)
        store.take([TAKEN.source(path)], TAKEN.documents)
        store.withdrawn()  # in a second life the file of the first one is gone
        self.facts["taken"] = lambda store: read_all(store, TAKEN) == TAKEN.data

    def _reuse(self, store: Store) -> None:
        store.put(SHARED.documents)
        store.discard_part(SHARED.object)
        store.open_part(SHARED.object)
        assert store.reuse(SHARED.object) == 16_000
        store.discard_part(SHARED.object)
        self.facts["discarded"] = lambda store: store.status(SHARED.object) is None

    def _keep(self, store: Store) -> None:
        store.add_release(Release(BIG.object, "one", added_s=1.0))
        self.facts["release"] = lambda store: [r.name for r in store.releases()] == ["one"]
        store.pin(BIG.object, True)
        self.facts["pin"] = lambda store: store.releases()[0].is_pinned


def is_held(store: Store, file: SampleFile) -> bool:
    try:
        return read_all(store, file) == file.data
    except NotHeld:
        return False
