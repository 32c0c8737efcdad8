"""Power cuts on real disks and kills, at random instants of a node's life: no false chunk, no lost
commit, no failed start, no lowered floor. In each half of the lives the instant is a random call of
the store, in the other a random moment.

The power cuts need root; all of it happens in namespaces of its own and leaves nothing behind.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.power.disks import missing, scratch

SCRIPT = Path(__file__).with_name("endings.py")
ISOLATED = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
LIVES_S_MAX = 3.0  # for one life, its end, the remount and the look, on a machine under load
KINDS = ["ext4", "xfs"]


@dataclass(frozen=True)
class Result:
    """What came of some lives."""

    lives: int
    ended: int  # cut off before they were over
    faults: list[str]


def end_lives(kind: str, ending: str, count: int, *, syncs: bool = True) -> Result:
    """Lives on a disk of its own; the seed is printed, so that they can be lived again."""
    seed = random.SystemRandom().randrange(1 << 32)
    with scratch() as folder:
        words = [sys.executable, str(SCRIPT), str(folder), kind, ending, str(count), str(seed)]
        words.append("1" if syncs else "0")
        print("seed", seed)
        done = subprocess.run(
            words if kind == "none" else ISOLATED + words,
            capture_output=True, text=True, check=False, timeout=60 + count * LIVES_S_MAX,
        )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.stderr}"
    result = Result(**json.loads(done.stdout))
    print(f"{ending} on {kind}: {result.ended} of {result.lives} lives cut off")
    return result


def check_cuts(kind: str, count: int) -> None:
    if reason := missing(kind):
        pytest.skip(reason)
    result = end_lives(kind, "cut", count)
    assert result.faults == []
    assert result.lives == count
    assert result.ended > count / 4


def check_kills(count: int) -> None:
    result = end_lives("none", "kill", count)
    assert result.faults == []
    assert result.lives == count
    assert result.ended > count / 4


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_power_cuts_break_no_promise(kind: str) -> None:
    check_cuts(kind, 25)


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_a_store_whose_syncs_do_nothing_is_found_out(kind: str) -> None:
    # The negative control: a suite that cannot fail proves nothing.
    if reason := missing(kind):
        pytest.skip(reason)
    faults = end_lives(kind, "cut", 10, syncs=False).faults
    assert any("lost: " in fault or "false: " in fault for fault in faults), faults


def test_kills_break_no_promise() -> None:
    check_kills(50)


@pytest.mark.long
@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_very_many_power_cuts_break_no_promise(kind: str) -> None:
    check_cuts(kind, 500)


@pytest.mark.long
def test_very_many_kills_break_no_promise() -> None:
    check_kills(1000)
