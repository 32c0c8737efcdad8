"""The store after a power cut or a kill at any call it makes: nothing false believed, no promise
broken.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from p2phub.store.disk import DiskStore
from tests.store.power_cut import FragileFileSystem, PowerCut
from tests.store.small_life import SmallLife

KILLS = 60


def cut_once(root: Path, cut_at: int, rng: random.Random, *, syncs: bool = True) -> bool:
    """Live until the power is cut, then look what is there; whether it was cut at all."""
    root.mkdir()
    files = FragileFileSystem(root / "trash", cut_at=cut_at, syncs=syncs)
    life = SmallLife(root)
    store = None
    try:
        store = DiskStore(root / "store", files=files)
        life.live(store)
    except PowerCut:
        pass
    files.is_dead = True
    if store is not None:
        with pytest.raises(PowerCut):
            store.close()
            raise PowerCut  # nothing was left to write
    was_cut = files.calls >= cut_at
    files.lose_unsynced(rng)
    store = DiskStore(root / "store")
    life.check(store)
    store.close()
    return was_cut


def calls_of_a_life(root: Path) -> int:
    root.mkdir()
    files = FragileFileSystem(root / "trash")
    store = DiskStore(root / "store", files=files)
    SmallLife(root).live(store)
    store.close()
    files.close_all()
    return files.calls


def test_a_power_cut_at_every_call_breaks_no_promise(root: Path) -> None:
    total = calls_of_a_life(root / "whole")
    assert total > 100
    for cut_at in range(1, total + 1):
        rng = random.Random(cut_at)
        assert cut_once(root / f"cut-{cut_at}", cut_at, rng), f"call {cut_at} was not reached"


def test_a_disk_whose_syncs_do_nothing_is_found_out(root: Path) -> None:
    # The negative control: a suite that cannot fail proves nothing.
    total = calls_of_a_life(root / "whole")
    failed = 0
    for cut_at in range(total // 2, total, 7):
        try:
            cut_once(root / f"cut-{cut_at}", cut_at, random.Random(cut_at), syncs=False)
        except Exception:
            failed += 1
    assert failed > 5


def test_a_store_goes_on_after_a_cut_as_if_nothing_had_been(root: Path) -> None:
    total = calls_of_a_life(root / "whole")
    for cut_at in range(5, total, 11):
        folder = root / f"cut-{cut_at}"
        cut_once(folder, cut_at, random.Random(-cut_at))
        store = DiskStore(folder / "store")
        life = SmallLife(folder)
        life.live(store)
        life.check(store)
        store.close()


def test_a_kill_at_random_calls_breaks_no_promise(root: Path) -> None:
    script = Path(__file__).with_name("killed_lives.py")
    done = subprocess.run(
        [sys.executable, str(script), str(root), str(KILLS)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["killed", str(KILLS)]
