"""A store against a reference of a few lines: whatever is called in whatever order, the same bits
are held.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2phub.errors import CorruptChunk, NotHeld, WrongChunk
from p2phub.paths import StoreFolder
from p2phub.proto.messages import Run
from p2phub.store.base import ObjectState
from p2phub.store.disk import DiskStore
from tests.store.sample_files import SampleFile, runs_of_bits, some_bytes

CHUNKS = 13
ONE = SampleFile(some_bytes(CHUNKS * 50), (50,) * CHUNKS, 5)
# Shares its first two segments with ONE.
TWO = SampleFile(ONE.data[:500] + some_bytes(180, 1), (50,) * 13 + (30,), 5)
FILES = (ONE, TWO)
WHICH = st.sampled_from(range(2))
CHUNK = st.integers(0, CHUNKS - 1)


class StoreMachine(RuleBasedStateMachine):
    """Sets of chunk numbers per file are the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.store = DiskStore(self.root / "store")
        self.is_open = [False, False]
        self.is_complete = [False, False]
        self.written: list[set[int]] = [set(), set()]
        self.durable: list[set[int]] = [set(), set()]
        for file in FILES:
            self.store.put(file.documents)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)

    @rule(which=WHICH)
    def open_part(self, which: int) -> None:
        self.store.open_part(FILES[which].object)
        self.is_open[which] = True

    @rule(which=WHICH, chunk=CHUNK, count=st.integers(1, 6), is_lie=st.booleans())
    def write(self, which: int, chunk: int, count: int, is_lie: bool) -> None:
        file = FILES[which]
        segment, first = divmod(chunk, 5)
        stop = min(first + count, len(file.segments[segment]))
        first = min(first, stop - 1)
        run = Run(file.pages[segment], first, stop)
        shares = segment < 2
        others = [w for w in (0, 1) if (w == which or shares) and self.is_open[w]]
        if not others:
            with pytest.raises(NotHeld):
                self.store.span_writer([run])
            return
        base = segment * 5
        data = bytearray(b"".join(file.chunks[base + first : base + stop]))
        kept = set(range(base + first, base + stop))
        if is_lie:
            data[-1] ^= 1
            kept.discard(base + stop - 1)
        writer = self.store.span_writer([run])
        if is_lie:
            with pytest.raises(WrongChunk):
                writer.write(0, stop - first, memoryview(data))
        else:
            writer.write(0, stop - first, memoryview(data))
        for other in others:
            self.written[other] |= kept

    @rule()
    def checkpoint(self) -> None:
        reported: dict[bytes, set[int]] = {}
        for page, indexes in self.store.checkpoint():
            reported.setdefault(page, set()).update(indexes)
        expected: dict[bytes, set[int]] = {}
        for which, file in enumerate(FILES):
            for chunk in self.written[which] - self.durable[which]:
                expected.setdefault(file.pages[chunk // 5], set()).add(chunk % 5)
        for page, indexes in expected.items():
            assert indexes <= reported[page]
        self.durable = [set(some) for some in self.written]
        # What a finish or a reuse made durable in between is reported now too.
        for page, indexes in reported.items():
            assert indexes <= set(runs_of_bits(self.store.held(page) or b"", 5))

    @rule()
    def restart(self) -> None:
        self.store.close()  # a checkpoint
        self.durable = [set(some) for some in self.written]
        self.store = DiskStore(self.root / "store")

    @rule()
    def lose_the_index(self) -> None:
        self.store.close()
        StoreFolder(self.root / "store").index.unlink()
        self.durable = [set(some) for some in self.written]
        self.store = DiskStore(self.root / "store")

    @rule(which=WHICH)
    def reuse(self, which: int) -> None:
        if not self.is_open[which]:
            return
        self.store.reuse(FILES[which].object)
        other = 1 - which
        held = self.written[other] | (set(range(14)) if self.is_complete[other] else set())
        self.written[which] |= held & set(range(10))
        self.durable = [set(some) for some in self.written]
        self.store.checkpoint()

    @rule(which=WHICH)
    def finish(self, which: int) -> None:
        file = FILES[which]
        if self.is_open[which] and len(self.written[which]) == len(file.chunks):
            self.store.finish(file.object)
            self.is_complete[which] = True
            self.durable = [set(some) for some in self.written]
        elif not self.is_complete[which]:
            with pytest.raises(NotHeld):
                self.store.finish(file.object)
            if self.is_open[which]:
                self.durable = [set(some) for some in self.written]

    @rule(which=WHICH)
    def discard(self, which: int) -> None:
        self.store.checkpoint()
        self.durable = [set(some) for some in self.written]
        self.store.discard_part(FILES[which].object)
        if not self.is_complete[which]:
            self.is_open[which] = False
            self.written[which] = set()
            self.durable[which] = set()

    @precondition(lambda self: self.durable[0] and not self.is_complete[0])
    @rule(data=st.data())
    def rot(self, data: st.DataObject) -> None:
        self.store.checkpoint()
        self.durable = [set(some) for some in self.written]
        chunk = data.draw(st.sampled_from(sorted(self.durable[0])))
        with open(StoreFolder(self.root / "store").part(ONE.object), "r+b") as file:
            file.seek(chunk * 50)
            file.write(bytes([ONE.data[chunk * 50] ^ 1]))
        run = Run(ONE.pages[chunk // 5], chunk % 5, chunk % 5 + 1)
        into = memoryview(bytearray(50))
        try:
            self.store.span_reader([run]).read(0, 1, into)
            assert into == ONE.chunks[chunk]
        except CorruptChunk:
            pass
        # It may have been served from the other file; look at this one itself.
        status = self.store.status(ONE.object)
        assert status is not None
        if status.held_chunks < len(self.written[0]):
            self.written[0].discard(chunk)
            self.durable[0].discard(chunk)
        else:
            with open(StoreFolder(self.root / "store").part(ONE.object), "r+b") as file:
                file.seek(chunk * 50)
                file.write(ONE.chunks[chunk])

    @invariant()
    def the_same_is_held(self) -> None:
        for which, file in enumerate(FILES):
            for number, page in enumerate(file.pages):
                count = len(file.segments[number])
                durable, written = set(), set()
                for other in (0, 1) if number < 2 else (which,):
                    durable |= self.durable[other]
                    written |= self.written[other]
                base = number * 5
                held = runs_of_bits(self.store.held(page) or b"", count)
                assert held == [i for i in range(count) if base + i in durable]
                missing = list(self.store.missing(page))
                assert missing == [i for i in range(count) if base + i not in written]
                for index in range(count):
                    if base + index in written:
                        into = memoryview(bytearray(len(file.chunks[base + index])))
                        run = Run(page, index, index + 1)
                        self.store.span_reader([run]).read(0, 1, into)
                        assert into == file.chunks[base + index]
            status = self.store.status(file.object)
            if self.is_complete[which]:
                assert status is not None
                assert status.state is ObjectState.COMPLETE


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
