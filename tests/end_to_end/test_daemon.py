"""The daemon as a process: its one line, its lock, its ports, its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.end_to_end.daemons import LOOPBACK, P2PHUB, command, running

READY = re.compile(
    r"ready /ip4/127\.0\.0\.1/tcp/[1-9][0-9]*/p2p/[1-9A-Za-z]{40,64} http://127\.0\.0\.1:[1-9][0-9]*"
)


def test_one_home_has_one_daemon_that_says_where_it_is_and_ends_cleanly(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home) as daemon:
        assert READY.fullmatch(daemon.ready)
        with urllib.request.urlopen(f"{daemon.gateway}/healthz", timeout=5) as reply:
            assert reply.read() == b"ok\n"
        assert daemon.run("id")["addresses"] == [daemon.address]
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "control.sock").stat().st_mode) == 0o600

        second = command(home, "daemon", *LOOPBACK)
        assert second.returncode == 5 and second.stdout == ""
        assert str(daemon.process.pid) in second.stderr

        assert daemon.end(signal.SIGTERM) == 0
        assert "Traceback" not in daemon.log
    assert command(home, "status").returncode == 4
    assert not (home / "control.sock").exists()


def test_ctrl_c_ends_it_and_its_identity_stays(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home) as daemon:
        first = daemon.run("id")["peer_id"]
        assert daemon.end(signal.SIGINT) == 0
    (home / "control.sock").write_bytes(b"")  # what a crash may leave
    with running(home) as daemon:
        assert daemon.run("id")["peer_id"] == first
        daemon.process.kill()
        daemon.process.wait()
    with running(home) as daemon:  # after SIGKILL: the lock is free, the socket is replaced
        assert daemon.run("id")["peer_id"] == first


@pytest.mark.parametrize("door", ["--listen", "--lane-listen", "--gateway"])
def test_a_taken_port_is_said_and_nothing_is_started(tmp_path: Path, door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # Even where the other side shares its port, as libp2p would.
        port = taken.getsockname()[1]
        form = "/ip4/127.0.0.1/tcp/{}" if door == "--listen" else "127.0.0.1:{}"
        flags = list(LOOPBACK)
        flags[flags.index(door) + 1] = form.format(port)
        done = command(tmp_path / "home", "--json", "daemon", *flags)
    assert done.returncode == 61 and done.stdout == ""
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["kind"] == "PortInUse" and str(port) in error["message"]


def test_a_folder_that_others_use_is_not_taken_for_a_home(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "theirs.txt").write_text("x")
    done = command(shared, "daemon", *LOOPBACK)
    assert done.returncode == 6 and "chmod 700" in done.stderr
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert [path.name for path in shared.iterdir()] == ["theirs.txt"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--gateway", "127.0.0.1:65536"),
        ("--gateway", "127.0.0.1"),
        ("--lane-listen", "127.0.0.1:80 "),
        ("--listen", "127.0.0.1:4701"),
        ("--listen", "/ip4/127.0.0.1/udp/1"),
        ("--bootstrap", "/ip4/127.0.0.1/tcp/1"),
    ],
)
def test_a_bad_flag_is_refused_by_name(tmp_path: Path, flags: tuple[str, str]) -> None:
    done = command(tmp_path / "home", "--json", "daemon", *flags)
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert done.returncode == 6 and error["facts"]["setting"] in flags[0].replace("-", "_")


def test_a_library_in_the_working_folder_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "trio.py").write_text("raise SystemExit('imported')")
    done = subprocess.run(
        [str(P2PHUB), "--home", str(tmp_path / "home"), "daemon", "--gateway", "nonsense"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 6 and "imported" not in done.stderr
