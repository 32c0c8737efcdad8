"""The daemon's machines over modelled links: complete, near the bound, the same for a seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from p2phub.proto.limits import MIB
from simulations.__main__ import main
from simulations.scenarios import NEIGHBOURS_MAX, SCENARIOS, Setting, played, simulate

SMALL = 16 * MIB
SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flash_crowd_ends_near_the_bound_with_little_more_than_one_copy(seed: int) -> None:
    report = simulate("flash_crowd", Setting(peers_count=6, seed=seed, size_bytes=2 * SMALL))
    assert report.completed_count == 6
    assert report.ratio <= 1.3
    assert report.seed_copies <= 1.1
    assert report.duplicate_share <= 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_a_liar_is_dropped_after_its_first_bad_chunk_by_everybody(seed: int) -> None:
    setting = Setting(peers_count=4, seed=seed, size_bytes=SMALL)
    report = simulate("liars", setting)
    assert report.completed_count == 4
    assert 0 < report.liars_dropped_count <= 4
    lost_bytes = report.duplicate_share * 4 * SMALL
    # The first bad chunk ends it; what was under way to each peer is at most a pipeline's start.
    assert lost_bytes <= 4 * 4 * setting.chunk_bytes


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_whatever_happens_all_who_stay_complete(scenario: str) -> None:
    report = simulate(scenario, Setting(peers_count=10, size_bytes=SMALL))
    assert report.completed_count == (1 if scenario == "cold_start" else 10)
    assert report.ratio < 4.0
    assert report.duplicate_share < 0.1


def test_a_slow_seed_sends_little_more_than_one_copy() -> None:
    report = simulate("slow_seed", Setting(peers_count=10, size_bytes=SMALL))
    assert report.seed_copies <= 1.1
    assert report.ratio <= 1.15


def test_fifty_peers_get_what_one_sends_without_the_seed_sending_it_twice() -> None:
    report = simulate("flash_crowd", Setting(peers_count=50, size_bytes=4 * SMALL, chunk_bytes=MIB))
    assert report.p99_ratio <= 1.7
    assert report.seed_copies <= 1.6
    assert report.duplicate_share <= 0.02


@pytest.mark.parametrize("seed", range(3))
def test_who_comes_late_completes_too_and_costs_the_seeds_little(seed: int) -> None:
    report = simulate("late_comers", Setting(peers_count=6, seed=seed, size_bytes=2 * SMALL))
    assert report.completed_count == 6
    assert report.seed_copies <= 2.0
    assert report.duplicate_share <= 0.02


def test_who_comes_late_is_let_in_by_peers_that_have_all_their_neighbours() -> None:
    setting = Setting(peers_count=60, seed=1, size_bytes=SMALL, chunk_bytes=MIB)
    world = played("late_comers", setting)
    early, late = world.downloaders[:30], world.downloaders[30:]
    assert len(late) == 30
    assert all(len(peer.neighbours) >= NEIGHBOURS_MAX for peer in late)
    assert any(len(peer.neighbours) > NEIGHBOURS_MAX for peer in early)


@pytest.mark.parametrize("seed", range(5))
def test_all_complete_when_the_seed_dies_as_soon_as_the_last_chunk_has_left_it(seed: int) -> None:
    report = simulate("seeds_die", Setting(peers_count=6, seed=seed, size_bytes=2 * SMALL))
    assert report.completed_count == 6
    assert report.seed_copies <= 1.1


def test_a_seed_stays_until_all_of_it_is_spread_however_much_it_sends_twice() -> None:
    setting = Setting(peers_count=8, seed=5, size_bytes=SMALL // 2, chunk_bytes=5000)
    report = simulate("seeds_die", setting)
    assert report.completed_count == 8
    assert report.seed_copies > 1.06  # else this setting shows nothing: what is small is sent twice


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    setting = Setting(peers_count=4, seed=3, size_bytes=SMALL)
    other = Setting(peers_count=4, seed=4, size_bytes=SMALL)
    assert simulate("flash_crowd", setting) == simulate("flash_crowd", setting)
    assert simulate("flash_crowd", setting).trace != simulate("flash_crowd", other).trace


def test_more_peers_than_upload_slots_all_complete() -> None:
    report = simulate("flash_crowd", Setting(peers_count=36, size_bytes=SMALL // 2))
    assert report.completed_count == 36


def test_the_command_prints_one_json_object_and_draws_its_curves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "curves.svg"
    assert main(["cold_start", "--size-mib", "8", "--json", "--plot", str(picture)]) == 0
    assert json.loads(capsys.readouterr().out)["completed_count"] == 1
    curves = ElementTree.parse(picture).getroot().findall("{http://www.w3.org/2000/svg}polyline")
    assert len(curves) == 4
    for curve in curves:
        points = [tuple(map(float, point.split(","))) for point in curve.attrib["points"].split()]
        assert len(points) > 10 and points == sorted(points, key=lambda point: point[0])


def test_the_command_as_a_process_gives_the_same_trace(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["flash_crowd", "--peers", "2", "--size-mib", "4", "--json"]
    command = [sys.executable, "-m", "simulations", *arguments]
    tree = Path(__file__).parents[2]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=tree)
    assert main(arguments) == 0
    assert json.loads(done.stdout) == json.loads(capsys.readouterr().out)
