"""Daemons and commands end when they are told to, and start only where they can."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2phub.errors import DaemonNotRunning, PortInUse
from p2phub.proto.limits import MIB
from tests.end_to_end.daemons import (
    Daemon,
    Daemons,
    command,
    daemons,
    is_same_tree,
    start,
    until,
    write_files,
)

SEED = 5
END_SECONDS_MAX = 5.0


@dataclass(frozen=True)
class World:
    """A publisher of more than a second's work, and somebody who knows it."""

    all: Daemons
    publisher: Daemon
    user: Daemon
    folder: Path
    content_id: str


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with daemons() as all:
        publisher = all.start("publisher")
        sizes = {f"part-{number}.bin": 48 * MIB for number in range(8)}
        folder = write_files(all.folder / "model", sizes, SEED)
        content_id = publisher.publish(folder, "large")["content_id"]
        yield World(all, publisher, all.start("user", bootstrap=[publisher]), folder, content_id)


def test_a_command_without_a_daemon_says_how_to_start_one(world: World) -> None:
    lonely = command(world.all.folder / "lonely", "fetch", world.content_id)
    assert lonely.code == DaemonNotRunning.exit_code
    assert "p2phub daemon" in lonely.stderr
    assert not (world.all.folder / "lonely").exists()


def test_a_port_of_another_node_is_taken_too(world: World) -> None:
    """libp2p sets SO_REUSEPORT, under which two nodes would share a port and lose connections."""
    daemon = world.all.make("twin")
    address = world.publisher.address.partition("/p2p/")[0]
    daemon.arguments = ("--listen", address, *daemon.arguments[2:])
    refused = daemon.refused()
    assert refused.code == PortInUse.exit_code
    assert refused.stdout == "" and address.rpartition("/")[2] in refused.stderr


def test_ctrl_c_ends_a_fetch_which_goes_on_later(world: World) -> None:
    fetch = ["fetch", world.content_id, "--peer", world.publisher.address]
    world.publisher.json("limit", "--up", "20M")  # or it is over before the signal
    running = start(world.user.home, *fetch)
    until(lambda: bool(world.user.status()["transfers"]), "fetching")
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=END_SECONDS_MAX)
    world.publisher.json("limit", "--up", "off")
    assert running.returncode == 130 and "Traceback" not in stderr
    until(lambda: not world.user.status()["transfers"], "stopped", timeout_s=END_SECONDS_MAX)
    fetched = world.user.json(*fetch)
    assert is_same_tree(Path(fetched["path"]), world.folder)


@pytest.mark.parametrize("role", ["fetching", "serving"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_under_load(world: World, role: str, number: int) -> None:
    daemon = world.all.start(f"{role}-{number}")
    running = start(daemon.home, "fetch", world.content_id, "--peer", world.publisher.address)
    ended = daemon if role == "fetching" else world.publisher
    try:
        until(lambda: bool(daemon.status()["transfers"]), "fetching")
        code, seconds = ended.stop(number)
        assert (code, seconds < END_SECONDS_MAX) == (0, True), f"{seconds:.2f} s\n{ended.log()}"
        assert "Traceback" not in ended.log()
    finally:
        running.kill()
        running.communicate()
        if role == "serving":
            world.publisher.start()
        daemon.kill()
