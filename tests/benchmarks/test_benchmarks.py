"""The measurements measure: small runs of their building blocks give figures and right bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2phub.proto.content import CDC_RULE, TENSOR_RULE
from p2phub.proto.content_id import parse_content_id
from p2phub.store.base import ObjectState
from p2phub.store.disk import DiskStore
from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.bounds import make_certificate, tls_disk_copy
from tests.benchmarks.flash_crowd import bound_s
from tests.benchmarks.lane import lane_copy, upload
from tests.benchmarks.measuring import MIB, side, write_random_file
from tests.benchmarks.namespaces import hosts, why_not
from tests.benchmarks.scale import TB, index_mb, write_large
from tests.benchmarks.summary import MAKERS

SIZE_BYTES = 8 * MIB


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_bare_copy_copies(tmp_path: Path, is_complete: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write_random_file(source, SIZE_BYTES, seed=1)
    certificate = make_certificate(tmp_path)
    assert tls_disk_copy(source, target, certificate, is_complete=is_complete) > 0
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize(("chunk_bytes", "strands_count"), [(MIB, 1), (16 << 10, 2)])
def test_a_lane_copies(tmp_path: Path, chunk_bytes: int, strands_count: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    write_random_file(source, SIZE_BYTES, seed=1)
    rate, *_ = lane_copy(source, target, chunk_bytes, strands_count)
    assert rate > 0
    assert target.read_bytes() == source.read_bytes()


def test_a_failure_in_a_measured_process_is_told(tmp_path: Path) -> None:
    with (
        side(upload, str(tmp_path / "absent"), MIB, 1) as failing,
        pytest.raises(RuntimeError, match="FileNotFoundError"),
    ):
        failing.receive()


@pytest.mark.parametrize("rule", [TENSOR_RULE, CDC_RULE])
def test_the_index_of_a_terabyte_is_small_and_goes_with_it(tmp_path: Path, rule: str) -> None:
    store = DiskStore(tmp_path / "store")
    content_id = write_large(tmp_path / "files", store, rule, TB // 200, TB // 10_000, seed=1)
    store.close()
    assert 200 * index_mb(tmp_path) < 500
    store = DiskStore(tmp_path / "store")
    manifest = parse_content_id(content_id)
    assert {status.state for status in store.objects()} == {ObjectState.COMPLETE}
    store.remove_release(manifest)
    collected = store.collect(time.time(), part_idle_s=0.0)
    assert (len(collected.objects), collected.forgotten_count) == (50, 50)
    assert collected.chunk_count > 50
    assert list(store.objects()) == []
    store.close()


def test_a_row_says_what_was_measured_and_beside_what() -> None:
    figures = {"rss_mb": 99.6, "core_percent": 0.04, "imports_rss_mb": 84.0, "ratio": 1.19}
    assert MAKERS["idle"](figures) == [
        "| idle, seeding 1 GiB | 100 MB, 0.04 % of a core "
        "| a process that imports our dependencies 84 MB | 1.19 |"
    ]
    assert set(MAKERS) <= set(BENCHMARKS)


@pytest.mark.root
def test_hosts_reach_each_other_and_are_gone_afterwards() -> None:
    if reason := why_not():
        pytest.skip(reason)
    with hosts(2, up_mbit=100, down_mbit=400) as (one, two):
        listen = f"s = socket.create_server(('{two.address}', 9)); print(flush=True); s.accept()"
        connect = f"socket.create_connection(('{two.address}', 9), timeout=5).close()"
        python = (sys.executable, "-c")
        with subprocess.Popen(
            [*two.within, *python, f"import socket; {listen}"], stdout=subprocess.PIPE
        ) as listening:
            assert listening.stdout is not None
            assert listening.stdout.readline()
            subprocess.run([*one.within, *python, f"import socket; {connect}"], check=True)
        names = {one.name, two.name}
        assert names <= set(_namespaces())
        assert one.sent_bytes > 0
    assert not names & set(_namespaces())


def _namespaces() -> list[str]:
    found = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    return [line.split()[0] for line in found.stdout.splitlines()]


def test_the_bound_of_a_flash_crowd_is_the_narrowest_of_three() -> None:
    size = 12_500_000  # one second of 100 Mbit/s
    assert bound_s(size, seeds=1, givers=8) == pytest.approx(1.0)
    assert bound_s(size, seeds=3, givers=8) == pytest.approx(8 / 11)
    assert bound_s(size, seeds=1, givers=4) == pytest.approx(8 / 5)
    assert bound_s(size, seeds=40, givers=8) == pytest.approx(0.25)


def test_every_benchmark_named_is_there() -> None:
    folder = Path(__file__).parent
    assert all((folder / f"{name}.py").exists() for name in BENCHMARKS)
