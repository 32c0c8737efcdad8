"""One reading pass over a file: its chunks cut and named, and its SHA-256.

A file of more than a block is read by the calling thread into a ring of buffers that two more
threads empty: one feeds the SHA-256, which can't be divided, the other cuts and names chunks. So
one file alone keeps two cores busy, and several files on several pipelines keep more. Buffers:
PIPELINE_BYTES per pipeline.

Source: SPEC.md section 4 for the rules by which files are cut.
"""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from pyfastcdc import FastCDC

from p2phub.core.content.cutting import cut_tensors, is_one_chunk
from p2phub.core.content.tensors import FIRST_BYTES, tensor_borders
from p2phub.digest import Sha256, digest, sha256
from p2phub.errors import FileChanged, UnpublishableFile
from p2phub.proto.content import CDC_RULE, TENSOR_RULE
from p2phub.proto.limits import (
    CDC_BYTES_AVERAGE,
    CDC_BYTES_MAX,
    CDC_BYTES_MIN,
    CHUNK_BYTES_MAX,
)
from p2phub.store.stamps import FileStamp

BLOCK_BYTES = CHUNK_BYTES_MAX  # one read: a whole chunk must fit
RING_BLOCKS = 6  # enough that no thread waits for another's short pause
_HEADROOM_BYTES = CDC_BYTES_MAX  # before a block, for what was left uncut of the one before
PIPELINE_BYTES = RING_BLOCKS * (_HEADROOM_BYTES + BLOCK_BYTES)

_CUTTER = FastCDC(
    CDC_BYTES_AVERAGE, min_size=CDC_BYTES_MIN, max_size=CDC_BYTES_MAX, normalized_chunking=1, seed=0
)


Result = TypeVar("Result")


class Stopped(Exception):
    """The caller asked to stop. Nothing is wrong and nothing was kept."""


@dataclass(frozen=True, slots=True)
class CutFile:
    """What one pass over a file found."""

    stamp: FileStamp  # the same before and after
    rule: str  # by which it was cut
    sha256: bytes
    digests: bytes  # 32 bytes per chunk, none for an empty file
    lengths: array[int]  # bytes per chunk, type code "I"


@dataclass(slots=True)
class _Block:
    """A filled part of one buffer of the ring."""

    buffer: memoryview
    size: int  # bytes behind the headroom
    lengths: Sequence[int]  # of the chunks in it; none: cut by content
    is_last: bool  # of its file

    @property
    def data(self) -> memoryview:
        return self.buffer[_HEADROOM_BYTES : _HEADROOM_BYTES + self.size]


class Pipeline:
    """Three threads' worth of reading: the caller's and two of its own. For one file at a time.

    on_read: told the bytes of every block that was read; raises to stop the pass.
    """

    def __init__(self, on_read: Callable[[int], None]) -> None:
        self._on_read = on_read
        self._buffers = [
            memoryview(bytearray(_HEADROOM_BYTES + BLOCK_BYTES)) for _ in range(RING_BLOCKS)
        ]
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="ingest")

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True)

    def read(self, path: Path, expected: FileStamp | None = None) -> CutFile:
        """Cut and hash a file.

        expected: how it must still look when it is opened. Raises FileChanged, UnpublishableFile.
        """
        file = _open(path)
        try:
            before = _stamp(file, path)
            if expected is not None and before != expected:
                raise FileChanged(
                    f"{path} changed after the folder was looked through", path=str(path)
                )
            found = self._read(file, path, before)
            if _stamp(file, path) != before:
                raise _changed(path)
            return found
        finally:
            os.close(file)

    def _read(self, file: int, path: Path, stamp: FileStamp) -> CutFile:
        if stamp.size == 0:
            return CutFile(stamp, CDC_RULE, sha256(b""), b"", array("I"))
        if is_one_chunk(stamp.size):
            data = self._buffers[0][: stamp.size]
            _fill(file, data, 0, path)
            self._on_read(stamp.size)
            return CutFile(stamp, CDC_RULE, sha256(data), digest(data), array("I", [stamp.size]))
        plan = _tensor_plan(file, stamp.size, path)
        rule = CDC_RULE if plan is None else TENSOR_RULE
        blocks = _blocks(stamp.size, plan)
        if stamp.size <= BLOCK_BYTES and plan is None:
            block = self._filled(0, file, 0, stamp.size, (), path, is_last=True)
            digests, lengths = _cut(iter([block]))
            return CutFile(stamp, rule, sha256(block.data), bytes(digests), lengths)
        whole, digests, lengths = self._in_threads(file, path, stamp.size, blocks)
        return CutFile(stamp, rule, whole, bytes(digests), lengths)

    def _in_threads(
        self, file: int, path: Path, file_size: int, blocks: Iterator[tuple[int, Sequence[int]]]
    ) -> tuple[bytes, bytearray, array[int]]:
        hashing: _Consumer[bytes] = _Consumer(self._threads, _sha256)
        cutting: _Consumer[tuple[bytearray, array[int]]] = _Consumer(self._threads, _cut)
        offset = 0
        try:
            for number, (size, lengths) in enumerate(blocks):
                # A buffer is free again when both have let go of the block that lay in it.
                if not (hashing.wait_free() and cutting.wait_free()):
                    break  # one of them failed: its result below raises
                block = self._filled(
                    number % RING_BLOCKS,
                    file,
                    offset,
                    size,
                    lengths,
                    path,
                    is_last=offset + size == file_size,
                )
                hashing.put(block)
                cutting.put(block)
                offset += size
        finally:
            hashing.end()
            cutting.end()
        digests, lengths_found = cutting.result()
        return hashing.result(), digests, lengths_found

    def _filled(
        self,
        number: int,
        file: int,
        offset: int,
        size: int,
        lengths: Sequence[int],
        path: Path,
        *,
        is_last: bool,
    ) -> _Block:
        block = _Block(self._buffers[number], size, lengths, is_last)
        _fill(file, block.data, offset, path)
        self._on_read(size)
        return block


class _Consumer(Generic[Result]):
    """A thread that works through the blocks of one file."""

    def __init__(
        self, threads: ThreadPoolExecutor, work: Callable[[Iterator[_Block]], Result]
    ) -> None:
        self._blocks: SimpleQueue[_Block | None] = SimpleQueue()  # at most RING_BLOCKS and the end
        self._free: SimpleQueue[bool] = SimpleQueue()  # True: one more buffer; False: it failed
        for _ in range(RING_BLOCKS):
            self._free.put(True)
        self._future: Future[Result] = threads.submit(self._run, work)

    def wait_free(self) -> bool:
        """Wait until it has let go of the oldest buffer. False: it failed and takes no more."""
        return self._free.get()

    def put(self, block: _Block) -> None:
        self._blocks.put(block)

    def end(self) -> None:
        """No more blocks come. Waits until the thread holds no buffer."""
        self._blocks.put(None)
        wait_for([self._future])

    def result(self) -> Result:
        return self._future.result()

    def _run(self, work: Callable[[Iterator[_Block]], Result]) -> Result:
        try:
            return work(self._given())
        except BaseException:
            self._free.put(False)
            raise

    def _given(self) -> Iterator[_Block]:
        while (block := self._blocks.get()) is not None:
            yield block
            self._free.put(True)


# ---- the two kinds of work ----------------------------------------------------------------------


def _sha256(blocks: Iterator[_Block]) -> bytes:
    whole = Sha256()
    for block in blocks:
        whole.update(block.data)
    return whole.digest()


def _cut(blocks: Iterator[_Block]) -> tuple[bytearray, array[int]]:
    """Digests and lengths of all chunks in consecutive blocks of one file."""
    digests, lengths = bytearray(), array("I")
    rest = b""  # not cut yet, since more bytes could move the cut
    for block in blocks:
        if block.lengths:
            data, start = block.data, 0
            for length in block.lengths:
                digests += digest(data[start : start + length])
                start += length
            lengths.extend(block.lengths)
            continue
        start = _HEADROOM_BYTES - len(rest)
        block.buffer[start:_HEADROOM_BYTES] = rest
        data = block.buffer[start : _HEADROOM_BYTES + block.size]
        cut_off = 0
        for chunk in _CUTTER.cut_buf(data):
            if not block.is_last and len(data) - cut_off < CDC_BYTES_MAX:
                break
            digests += digest(chunk.data)
            lengths.append(chunk.length)
            cut_off += chunk.length
        rest = bytes(data[cut_off:])
    assert not rest
    return digests, lengths


# ---- the file -----------------------------------------------------------------------------------


def _blocks(size: int, plan: array[int] | None) -> Iterator[tuple[int, Sequence[int]]]:
    """How to read a file: bytes per block, and the lengths of its chunks where they are planned."""
    if plan is None:
        for offset in range(0, size, BLOCK_BYTES):
            yield min(BLOCK_BYTES, size - offset), ()
        return
    first, total = 0, 0
    for index, length in enumerate(plan):
        if total + length > BLOCK_BYTES:
            yield total, plan[first:index]
            first, total = index, 0
        total += length
    yield total, plan[first:]


def _tensor_plan(file: int, size: int, path: Path) -> array[int] | None:
    """The chunk lengths of a file with tensors; None where it is to be cut by content."""
    start = _beginning(file, min(FIRST_BYTES, size), path)
    while isinstance(found := tensor_borders(start, size), int):
        start = _beginning(file, found, path)
    return None if found is None else cut_tensors(found)


def _beginning(file: int, size: int, path: Path) -> bytes:
    data = bytearray(size)
    _fill(file, memoryview(data), 0, path)
    return bytes(data)


def _fill(file: int, into: memoryview, offset: int, path: Path) -> None:
    """Read exactly len(into) bytes. Raises FileChanged where the file has become shorter."""
    done = 0
    while done < len(into):
        try:
            count = os.preadv(file, [into[done:]], offset + done)
        except OSError as error:
            raise _unreadable(path, error) from error
        if count == 0:
            raise _changed(path)
        done += count


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _changed(path) from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _stamp(file: int, path: Path) -> FileStamp:
    try:
        status = os.fstat(file)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise _changed(path)
    return FileStamp.of(status)


def _changed(path: Path) -> FileChanged:
    return FileChanged(
        f"{path} changed while it was read. Nothing was published; wait until nobody writes to the "
        "folder and run the command again",
        path=str(path),
    )


def _unreadable(path: Path, error: OSError) -> UnpublishableFile:
    return UnpublishableFile(f"{path} cannot be read: {error.strerror}", path=str(path))
