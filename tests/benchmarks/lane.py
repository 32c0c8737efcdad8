"""Lanes alone: two processes, chunks verified at both ends, from the page cache to disk."""

from __future__ import annotations

import os
import tempfile
from array import array
from multiprocessing.connection import Connection
from pathlib import Path

import trio

from p2phub.digest import digest
from p2phub.errors import WrongChunk
from p2phub.net.lane import ReceivingLane, SendingLane
from p2phub.net.lane_buffers import BufferPool
from p2phub.net.lane_channel import LaneChannel
from p2phub.net.lane_events import (
    ChannelClosed,
    ChannelEvent,
    ChannelEvents,
    ChannelFailed,
    SpanDone,
)
from p2phub.net.lane_listener import LaneListener, connect_lane
from p2phub.net.lane_span import IncomingSpan, OutgoingSpan
from tests.benchmarks.bounds import make_certificate, tls_disk_copy
from tests.benchmarks.measuring import (
    MIB,
    Stopwatch,
    cpu_s,
    median,
    peak_rss_mb,
    rate_mb_s,
    settle,
    side,
    warm,
    write_random_file,
)

LOOPBACK = "127.0.0.1"
SPAN_BYTES = 4 * MIB


class DiskSpan:
    """Consecutive chunks of equal length in one file, read and written as a store would."""

    def __init__(
        self, descriptor: int, start: int, lengths: array[int], digests: list[bytes]
    ) -> None:
        self._descriptor, self._start = descriptor, start
        self.lengths, self._digests = lengths, digests

    def read(self, first: int, stop: int, into: memoryview) -> None:
        start = self._start + first * self.lengths[0]
        assert os.preadv(self._descriptor, [into], start) == len(into)
        self._verify(first, stop, into)

    def write(self, first: int, stop: int, data: memoryview) -> None:
        self._verify(first, stop, data)
        start = self._start + first * self.lengths[0]
        assert os.pwrite(self._descriptor, data, start) == len(data)

    def _verify(self, first: int, stop: int, data: memoryview) -> None:
        start = 0
        for index in range(first, stop):
            end = start + self.lengths[index]
            if digest(data[start:end]) != self._digests[index]:
                raise WrongChunk(index=index)
            start = end


def spans_of(path: str, chunk_bytes: int, descriptor: int, digests: list[bytes]) -> list[DiskSpan]:
    chunks = SPAN_BYTES // chunk_bytes
    lengths = array("I", [chunk_bytes] * chunks)
    return [
        DiskSpan(descriptor, start, lengths, digests[start // chunk_bytes :][:chunks])
        for start in range(0, os.path.getsize(path), SPAN_BYTES)
    ]


def digests_of(path: str, chunk_bytes: int) -> list[bytes]:
    found = []
    with open(path, "rb", buffering=0) as file:
        while block := file.read(MIB):
            view = memoryview(block)
            found += [digest(view[i : i + chunk_bytes]) for i in range(0, len(view), chunk_bytes)]
    return found


def upload(pipe: Connection, source: str, chunk_bytes: int, strands_count: int) -> None:
    """The uploading process: sends every span of `source` in order, over one lane."""
    digests = digests_of(source, chunk_bytes)
    descriptor = os.open(source, os.O_RDONLY)
    spans = spans_of(source, chunk_bytes, descriptor, digests)

    async def serve() -> None:
        events, buffers = ChannelEvents(), BufferPool()
        listener = LaneListener(LOOPBACK, 0)
        lanes: list[SendingLane] = []

        def on_channel(channel: LaneChannel) -> None:
            if lanes:
                lanes[0].widen(channel)
                return
            lane = SendingLane(channel, None, events, buffers)
            lanes.append(lane)
            lane.start()
            for number, span in enumerate(spans):
                assert lane.enqueue(OutgoingSpan(number, span.lengths, span.read))

        async with trio.open_nursery() as nursery:
            await nursery.start(listener.run)
            tickets = [listener.issue_ticket(LOOPBACK, on_channel) for _ in range(strands_count)]
            pipe.send((listener.port, listener.fingerprint, tickets))
            await until(events, ChannelClosed, 1)
            nursery.cancel_scope.cancel()

    trio.run(serve)
    pipe.send((cpu_s(), peak_rss_mb()))


def download(
    pipe: Connection,
    source: str,
    target: str,
    chunk_bytes: int,
    door: tuple[int, bytes, list[bytes]],
) -> None:
    """The downloading process: receives every span of `source` into `target`."""
    port, fingerprint, tickets = door
    digests = digests_of(source, chunk_bytes)

    async def fetch() -> float:
        events, buffers = ChannelEvents(), BufferPool()
        watch = Stopwatch()
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(descriptor, 0, os.path.getsize(source))
        spans = spans_of(source, chunk_bytes, descriptor, digests)
        first, *others = tickets
        lane = ReceivingLane(
            await connect_lane(LOOPBACK, port, first, fingerprint), None, events, buffers
        )
        for number, span in enumerate(spans):
            lane.expect(IncomingSpan(number, span.lengths, span.write))
        lane.start()
        for ticket in others:
            assert lane.widen(await connect_lane(LOOPBACK, port, ticket, fingerprint))
        await until(events, SpanDone, len(spans))
        seconds = watch.wall_s
        lane.close()
        assert lane.join(1.0)
        return seconds

    began_cpu_s = cpu_s()
    seconds = trio.run(fetch)
    pipe.send((seconds, cpu_s() - began_cpu_s, peak_rss_mb()))


async def until(events: ChannelEvents, kind: type[ChannelEvent], count: int) -> None:
    """Receive reports until `count` of this kind have come; raises what a lane failed of."""
    while count > 0:
        for event in await events.receive():
            if isinstance(event, ChannelFailed):
                raise event.error
            count -= isinstance(event, kind)


def lane_copy(
    source: Path, target: Path, chunk_bytes: int, strands_count: int
) -> tuple[float, ...]:
    """MB/s, processor seconds of uploader and downloader, and their peak memory in MB."""
    target.unlink(missing_ok=True)
    settle()
    with side(upload, str(source), chunk_bytes, strands_count) as uploader:
        door = uploader.receive()
        with side(download, str(source), str(target), chunk_bytes, door) as downloader:
            seconds, download_cpu_s, download_rss_mb = downloader.receive()
        upload_cpu_s, upload_rss_mb = uploader.receive()
    rate = rate_mb_s(source.stat().st_size, seconds)
    return rate, upload_cpu_s, download_cpu_s, upload_rss_mb, download_rss_mb


def run(folder: Path | None, rounds: int, size_bytes: int = 1024 * MIB) -> dict[str, object]:
    """Lanes of 1 MiB and of 16 KiB chunks, with one strand and two, beside a bare copy, in turn."""
    with tempfile.TemporaryDirectory(prefix="p2phub-benchmark-", dir=folder) as home:
        source, target = Path(home, "source"), Path(home, "target")
        write_random_file(source, size_bytes, seed=1)
        certificate = make_certificate(Path(home))
        warm(source)
        variants = {
            "1m_1": (MIB, 1),
            "1m_2": (MIB, 2),
            "16k_1": (16 << 10, 1),
            "16k_2": (16 << 10, 2),
        }
        rates: dict[str, list[float]] = {name: [] for name in ("bound", *variants)}
        details: dict[str, object] = {}
        for _ in range(rounds):
            rates["bound"].append(tls_disk_copy(source, target, certificate))
            for name, (chunk_bytes, strands_count) in variants.items():
                rate, *rest = lane_copy(source, target, chunk_bytes, strands_count)
                rates[name].append(rate)
                details[name] = [round(value, 2) for value in rest]
    bound = median(rates["bound"])
    return {
        "bound_mb_s": bound,
        **{f"{name}_mb_s": median(rates[name]) for name in variants},
        **{f"{name}_ratio": median(rates[name]) / bound for name in variants},
        "runs_mb_s": rates,
        "cpu_s_and_rss_mb": details,
    }
