"""The program as a process: quick, light, and clear about errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2phub.cli.messages import show_error
from p2phub.cli.progress import line
from p2phub.cli.render import duration, fields, plural, table
from p2phub.control.protocol import RemoteError
from p2phub.display import size_text, visible
from p2phub.errors import StoreFull, UnknownPetname

P2PHUB = Path(sys.executable).with_name("p2phub")


def p2phub(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(P2PHUB), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )


def test_help_answers_in_a_fifth_of_a_second() -> None:
    def measure() -> float:
        process = subprocess.Popen([str(P2PHUB), "--help"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_utime + usage.ru_stime

    # Its own time on a core, the best of some: other tests may run beside this one.
    assert min(measure() for _ in range(5)) < 0.2


@pytest.mark.parametrize(
    "module",
    ["p2phub.cli", "p2phub.cli.main", "p2phub.cli.commands.publish", "p2phub.cli.signing"],
)
def test_commands_pull_in_neither_trio_nor_libp2p(module: str) -> None:
    heavy = "('trio', 'libp2p', 'hypercorn')"
    code = f"import {module}, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_home_is_named_by_option_or_variable(tmp_path: Path) -> None:
    for arguments, environment in (
        (("--home", str(tmp_path), "status"), {}),
        (("status", "--home", str(tmp_path)), {}),
        (("status",), {"P2PHUB_HOME": str(tmp_path)}),
    ):
        done = p2phub(*arguments, **environment)
        assert done.returncode == 4 and str(tmp_path) in done.stderr and done.stdout == ""


def test_a_home_whose_socket_would_be_too_long_is_said(tmp_path: Path) -> None:
    done = p2phub("--json", "--home", str(tmp_path / ("x" * 100)), "status")
    assert json.loads(done.stderr)["error"]["kind"] == "BadSetting"


@pytest.mark.parametrize("arguments", [("config",), ("--json", "config"), ("--help",)])
def test_a_reader_that_has_enough_is_no_error(arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [str(P2PHUB), *arguments], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writer)
    assert done.returncode == 0 and b"Error" not in done.stderr


def test_wrong_usage_is_explained_and_ends_with_2() -> None:
    for arguments in (("nope",), ("fetch",), ("fetch", "a/b", "--nope"), ("trust", "add", "x")):
        done = p2phub(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("Usage: p2phub")
        for as_json in (p2phub("--json", *arguments), p2phub(*arguments, "--json")):
            assert json.loads(as_json.stderr)["error"]["kind"] == "UsageError"


@pytest.mark.parametrize("arguments", [(), ("key",), ("trust",)])
def test_a_bare_command_that_needs_another_shows_its_help(arguments: tuple[str, ...]) -> None:
    bare, helped = p2phub(*arguments), p2phub(*arguments, "--help")
    assert bare.returncode == 2 and bare.stdout == ""
    assert bare.stderr == helped.stdout


def test_an_abbreviated_or_unknown_setting_does_not_start_a_daemon(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "config.toml").write_text("gatewya = 'off'\n")
    done = p2phub("--home", str(tmp_path), "daemon")
    assert done.returncode == 6 and "gatewya" in done.stderr and done.stdout == ""


def test_errors_say_what_happened_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_error(StoreFull("3 GB are needed and 1 GB is free", needed=3), False) == 52
    text = capsys.readouterr().err
    assert text.startswith("p2phub: 3 GB are needed") and "free some space" in " ".join(
        text.split()
    )


def test_strangers_words_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show_error(UnknownPetname("a\x1b]0;title\x07\r\nb\u202ec"), False)
    text = capsys.readouterr().err
    assert "\\x1b]0;title\\x07\\r\\nb\\u202ec" in text and "\x1b" not in text


def test_an_error_of_a_newer_daemon_is_still_told(capsys: pytest.CaptureFixture[str]) -> None:
    newer = RemoteError({"kind": "NewKind", "message": "so", "meaning": "do this", "exit_code": 99})
    assert show_error(newer, True) == 99
    assert json.loads(capsys.readouterr().err)["error"]["kind"] == "NewKind"
    assert show_error(RemoteError({"exit_code": 0}), False) == 1


def test_values_read_well() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 90_868_376, 999_600, 10**15)] == [
        "0 B", "999 B", "1.0 kB", "90.9 MB", "1.0 MB", "1000 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (0.4, 59.6, 75, 700, 5000, 10**6)] == [
        "0 s", "1 min 0 s", "1 min 15 s", "11 min", "1 h 23 min", "11 days",
    ]  # fmt: skip
    assert plural(1, "file") == "1 file" and plural(2000, "file") == "2,000 files"
    assert visible("é\tx\x00\ud800") == "é\\tx\\x00\\ud800"
    assert table([("a", 1), ("bcd", 22)], ("x", "n"), (1,)) == "x     n\na     1\nbcd  22"
    wide = table([("日本", 1), ("e\u0301", 2), ("abc", 3)], ("x", "n"))
    assert wide == "x     n\n日本  1\ne\u0301     2\nabc   3"
    assert fields([("a", 1), ("empty", ""), ("long", "x")]) == "a     1\nlong  x"


@pytest.mark.parametrize("width", [0, 5, 20, 40, 79, 200])
def test_the_progress_line_fits_and_says_what_is_known(width: int) -> None:
    progress = {
        "stage": "transfer", "done_bytes": 45_000_000, "total_bytes": 90_000_000,
        "rate_bytes_per_s": 9e6, "peers": 2, "note": "",
    }  # fmt: skip
    text = line(progress, width)
    assert len(text) <= width
    if width >= 79:
        for part in ("45.0 MB of 90.0 MB", "50 %", "9.0 MB/s", "2 peers", "5 s left"):
            assert part in text
    assert "MB" not in line({"stage": "find", "done_bytes": 0, "total_bytes": None}, 79)
