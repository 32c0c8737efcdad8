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

from tests.end_to_end.daemons import PROGRAM, command, daemons

READY = re.compile(r"/ip4/127\.0\.0\.1/tcp/[1-9][0-9]*/p2p/[1-9A-Za-z]{40,64}")
LOOPBACK = {
    "--listen": "/ip4/127.0.0.1/tcp/0",
    "--lane-listen": "127.0.0.1:0",
    "--gateway": "127.0.0.1:0",
}


def test_one_home_has_one_daemon_that_says_where_it_is_and_ends_cleanly() -> None:
    with daemons() as all_of_them:
        daemon = all_of_them.start("home")
        assert READY.fullmatch(daemon.address)
        with urllib.request.urlopen(f"{daemon.gateway}/healthz", timeout=5) as reply:
            assert reply.read() == b"ok\n"
        assert daemon.json("id")["addresses"] == [daemon.address]
        assert stat.S_IMODE(daemon.home.stat().st_mode) == 0o700
        assert stat.S_IMODE((daemon.home / "control.sock").stat().st_mode) == 0o600

        assert daemon.process is not None
        second = daemon.run("daemon", *daemon.arguments)
        assert (second.code, second.stdout) == (5, "")
        assert str(daemon.process.pid) in second.stderr

        code, seconds = daemon.stop(signal.SIGTERM)
        assert code == 0 and seconds < 5 and "Traceback" not in daemon.log()
        assert daemon.run("status").code == 4
        assert not (daemon.home / "control.sock").exists()


def test_its_identity_outlives_ctrl_c_and_a_kill() -> None:
    with daemons() as all_of_them:
        daemon = all_of_them.start("home")
        first = daemon.peer_id
        code, seconds = daemon.stop(signal.SIGINT)
        assert code == 0 and seconds < 5
        (daemon.home / "control.sock").write_bytes(b"")  # what a crash may leave
        assert daemon.start().peer_id == first
        daemon.kill()
        # After a kill the lock is free and the dead socket is replaced.
        assert daemon.start().json("id")["peer_id"] == first


@pytest.mark.parametrize("door", LOOPBACK)
def test_a_taken_port_is_said_and_nothing_is_started(tmp_path: Path, door: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        form = "/ip4/127.0.0.1/tcp/{}" if door == "--listen" else "127.0.0.1:{}"
        flags = [word for pair in {**LOOPBACK, door: form.format(port)}.items() for word in pair]
        done = command(tmp_path / "home", "--json", "daemon", "--no-mdns", *flags)
    assert (done.code, done.stdout) == (61, "")
    assert done.error["kind"] == "PortInUse" and str(port) in done.error["message"]


def test_a_folder_that_others_use_is_not_taken_for_a_home(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "theirs.txt").write_text("x")
    done = command(shared, "daemon")
    assert done.code == 6 and "chmod 700" in done.stderr
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert [path.name for path in shared.iterdir()] == ["theirs.txt"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--gateway", "127.0.0.1:65536"),
        ("--gateway", "127.0.0.1"),
        ("--lane-listen", "127.0.0.1:80 "),
        ("--listen", "127.0.0.1:4701"),
        ("--bootstrap", "/ip4/127.0.0.1/tcp/1"),
    ],
)
def test_a_bad_flag_is_refused_by_name(tmp_path: Path, flags: tuple[str, str]) -> None:
    done = command(tmp_path / "home", "--json", "daemon", *flags)
    assert done.code == 6
    assert done.error["facts"]["setting"] == flags[0].strip("-").replace("-", "_")


def test_a_library_in_the_working_folder_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "trio.py").write_text("raise SystemExit('imported')")
    done = subprocess.run(
        [PROGRAM, "--home", str(tmp_path / "home"), "--json", "daemon", "--gateway", "nonsense"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert json.loads(done.stderr)["error"]["kind"] == "BadSetting"
