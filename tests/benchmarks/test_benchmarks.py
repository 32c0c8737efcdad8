"""The measurements measure: small runs of their building blocks give figures and right bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.__main__ import BENCHMARKS
from tests.benchmarks.bounds import make_certificate, tls_disk_copy
from tests.benchmarks.lane import lane_copy, upload
from tests.benchmarks.measuring import MIB, side, write_random_file

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


def test_every_benchmark_named_is_there() -> None:
    folder = Path(__file__).parent
    assert all((folder / f"{name}.py").exists() for name in BENCHMARKS)
