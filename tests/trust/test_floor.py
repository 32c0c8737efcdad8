"""The floor: it only rises, it survives, and where it is lost it says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2phub.errors import ClockSetBack, EquivocationFound, FloorLost, RollbackRefused
from p2phub.proto.limits import EVIDENCE_ROWS_MAX
from p2phub.trust.floor import Floor, SeenStatement
from tests.trust.builders import DAY, NOW

ALICE, BOB = "alice's id", "bob's id"


def seen(version: int, role: str = "timestamp", authority: bytes = b"keys") -> SeenStatement:
    return SeenStatement(role, version, bytes([version]) * 32, authority)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trust" / "floor.db"


@pytest.fixture
def floor(path: Path) -> Iterator[Floor]:
    made = Floor(path)
    yield made
    made.close()


def test_a_floor_outlives_a_restart(floor: Floor, path: Path) -> None:
    floor.raise_to(ALICE, [seen(4), seen(2, "snapshot")], NOW)
    floor.close()
    again = Floor(path)
    assert again.seen(ALICE) == {"timestamp": seen(4), "snapshot": seen(2, "snapshot")}
    assert again.seen(BOB) == {}
    assert again.time_of(ALICE) == NOW
    again.close()


def test_a_floor_never_sinks_and_a_refused_step_changes_nothing(floor: Floor) -> None:
    floor.raise_to(ALICE, [seen(4), seen(4, "snapshot")], NOW)
    with pytest.raises(RollbackRefused):
        floor.raise_to(ALICE, [seen(5, "snapshot"), seen(3)], NOW)
    assert floor.seen(ALICE) == {"timestamp": seen(4), "snapshot": seen(4, "snapshot")}


def test_under_other_keys_a_role_begins_anew(floor: Floor) -> None:
    floor.raise_to(ALICE, [seen(200)], NOW)
    floor.raise_to(ALICE, [seen(1, authority=b"other keys")], NOW)
    assert floor.seen(ALICE)["timestamp"].version == 1


def test_commits_are_synced(floor: Floor, path: Path) -> None:
    floor.raise_to(ALICE, [seen(1)], NOW)
    connection = floor._connection
    assert connection is not None
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_time_never_runs_back(floor: Floor) -> None:
    assert floor.time(NOW) == NOW
    floor.raise_to(ALICE, [seen(1)], NOW)
    floor.raise_to(BOB, [seen(1)], NOW - DAY)
    assert floor.time(NOW + DAY) == NOW + DAY
    with pytest.raises(ClockSetBack):
        floor.time(NOW - DAY)
    floor.reset(ALICE, NOW - DAY)
    assert floor.time(NOW - DAY) == NOW - DAY


@pytest.mark.parametrize("loss", ["deleted", "zeroed", "cut", "text", "schema"])
def test_a_lost_floor_fails_closed_until_it_is_reset(floor: Floor, path: Path, loss: str) -> None:
    floor.raise_to(ALICE, [seen(4)], NOW)
    floor.raise_to(BOB, [seen(4)], NOW)
    floor.close()
    content = path.read_bytes()
    if loss == "schema":
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    else:
        path.write_bytes(
            {"deleted": b"", "zeroed": bytes(len(content)), "cut": content[:5000],
             "text": b"no database"}[loss]
        )  # fmt: skip
        if loss == "deleted":
            path.unlink()
    lost = Floor(path)
    for attempt in (
        lambda: lost.seen(ALICE),
        lambda: lost.knows(ALICE),
        lambda: lost.time(NOW),
        lambda: lost.raise_to(ALICE, [seen(9)], NOW),
        lambda: lost.evidence(ALICE),
    ):
        with pytest.raises(FloorLost):
            attempt()
    lost.reset(ALICE, NOW)
    assert lost.knows(ALICE)
    assert not lost.knows(BOB)
    lost.close()


def test_a_first_start_that_was_cut_off_is_no_loss(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"")
    floor = Floor(path)
    floor.raise_to(ALICE, [seen(1)], NOW)
    floor.close()


def test_evidence_halts_one_publisher_until_it_is_reset(floor: Floor, path: Path) -> None:
    error = floor.accuse(ALICE, "timestamp", 4, b"one", b"two", NOW)
    assert isinstance(error, EquivocationFound)
    floor.close()
    again = Floor(path)
    again.check_halted(BOB)
    with pytest.raises(EquivocationFound):
        again.check_halted(ALICE)
    (kept,) = again.evidence(ALICE)
    assert (kept.first, kept.second, kept.version, kept.time_seen) == (b"one", b"two", 4, NOW)
    again.reset(ALICE, NOW)
    again.check_halted(ALICE)
    again.close()


def test_evidence_is_bounded_and_the_first_of_each_is_kept(floor: Floor) -> None:
    for version in range(1, EVIDENCE_ROWS_MAX + 50):
        floor.accuse(ALICE, "timestamp", version, b"", b"", NOW)
    assert len(floor.evidence(ALICE)) == EVIDENCE_ROWS_MAX
    floor.accuse(BOB, "timestamp", 1, b"", b"", NOW)
    assert len(floor.evidence(BOB)) == 1
