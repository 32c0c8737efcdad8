"""What a command says while it runs: a line on a terminal, and pauses everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2phub.cli.progress import ProgressLine, line
from p2phub.cli.render import parse_duration
from p2phub.errors import UsageError
from p2phub.paths import Home
from tests.cli.running import Terminal

TRANSFER = {"stage": "transfer", "done_bytes": 250, "total_bytes": 1000, "note": "", "pause": None}
PAUSED = {
    "stage": "paused",
    "done_bytes": 250,
    "total_bytes": 1000,
    "note": "5.0 GB more room is needed at /data: free it, and it goes on",
    "pause": {"kind": "StoreFull", "lacking_bytes": 5 * 10**9, "path": "/data", "left_s": 3600.0},
}
LOOKING = {"stage": "resolve", "done_bytes": 0, "total_bytes": None, "note": "", "pause": None}


def test_a_pause_and_its_end_are_said_once_also_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressLine(False) as progress:
        for shown in (TRANSFER, PAUSED, PAUSED, LOOKING, PAUSED, TRANSFER, TRANSFER):
            progress.update(shown)
    first, last = capsys.readouterr().err.splitlines()
    assert "5.0 GB more room is needed at /data" in first
    assert "1 h 0 min" in first
    assert last == "it goes on"


def test_as_json_a_pause_and_its_end_are_lines_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressLine(True) as progress:
        for shown in (TRANSFER, PAUSED, LOOKING, PAUSED, TRANSFER):
            progress.update(shown)
    told = [json.loads(text)["progress"] for text in capsys.readouterr().err.splitlines()]
    assert told == [PAUSED, TRANSFER]


def test_an_operation_that_never_pauses_says_nothing_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressLine(False) as progress:
        for shown in (LOOKING, TRANSFER):
            progress.update(shown)
    assert capsys.readouterr().err == ""


def test_a_paused_line_says_how_much_is_there_and_what_is_waited_for() -> None:
    shown = line(PAUSED, 200)
    assert shown.startswith("[")
    assert "paused  250 B of 1.0 kB  25 %" in shown
    assert "free it, and it goes on" in shown


def test_times_are_whole_numbers_of_a_unit() -> None:
    texts = ["0", "90s", "10m", "1h", "2d"]
    assert [parse_duration(text) for text in texts] == [0, 90, 600, 3600, 172_800]
    for text in ("", "1", "-1s", "1.5h", "1h30m", "ever", "9999999d", "1 h", "١s"):
        with pytest.raises(ValueError, match="no time"):
            parse_duration(text)


async def test_a_wait_that_is_no_time_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(Home(tmp_path), capsys)
    refused = await terminal("fetch", "lab/tiny", "--wait-for-room", "soon")
    assert refused.code == UsageError.exit_code
    assert "--wait-for-room" in refused.err
