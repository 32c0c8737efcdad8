"""Real daemons and real commands, in homes of their own, ended by process id whatever happens."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = str(Path(sys.executable).with_name("p2phub"))
READY_TIMEOUT_S: Final = 60.0  # twenty interpreters that start at once on two cores
COMMAND_TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.02
BUG_EXIT_CODE: Final = 1
PASSPHRASE: Final = "a passphrase for tests\n"

Limits = Callable[[], None]  # run in the child before it becomes the program


@dataclass(frozen=True, slots=True)
class Outcome:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def value(self) -> Any:
        """What a command with --json printed; fails the test if it failed."""
        assert self.code == 0, f"exit code {self.code}\n{self.stdout}{self.stderr}"
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """The error that a command with --json ended with."""
        assert self.code != 0, self.stdout
        found: dict[str, Any] = json.loads(self.stderr.splitlines()[-1])["error"]
        return found


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command that runs beside the test; whoever starts it ends it."""
    return subprocess.Popen(
        [PROGRAM, "--home", str(home), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(home: Path, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Outcome:
    """Run one command to its end."""
    begun_s = time.monotonic()
    done = subprocess.run(
        [PROGRAM, "--home", str(home), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr, time.monotonic() - begun_s)


def until(
    condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0, poll_s: float = POLL_S
) -> None:
    """Wait until a condition of another process holds, which no event of ours can tell."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"after {timeout_s:.0f} s still not: {what}"
        time.sleep(poll_s)


@dataclass(slots=True)
class Daemon:
    """One daemon and its home, which outlives it."""

    home: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits | None = None
    address: str = ""  # multiaddr with /p2p/<id>
    gateway: str = ""
    process: subprocess.Popen[str] | None = None

    def begin(self) -> Daemon:
        """Start the process without waiting for it."""
        assert self.process is None
        with self.stderr_path.open("a") as stderr:
            self.process = subprocess.Popen(
                [PROGRAM, "--home", str(self.home), "daemon", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, **self.environment},
                preexec_fn=self.limits,
            )
        return self

    def wait_ready(self) -> Daemon:
        """Until it says that it serves."""
        assert self.process is not None and self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_TIMEOUT_S)
        line = self.process.stdout.readline() if readable else ""
        assert line.startswith("ready "), f"no ready line but {line!r}\n{self.log()}"
        _, self.address, self.gateway = line.split()
        return self

    def start(self) -> Daemon:
        return self.begin().wait_ready()

    def refused(self) -> Outcome:
        """Start it where it must not start: how it ended."""
        begun_s = time.monotonic()
        process = self.begin().process
        assert process is not None
        stdout, _ = process.communicate(timeout=READY_TIMEOUT_S)
        self.process = None
        return Outcome(process.returncode, stdout, self.log(), time.monotonic() - begun_s)

    @property
    def stderr_path(self) -> Path:
        return self.home.with_name(self.home.name + ".stderr")

    def log(self) -> str:
        return self.stderr_path.read_text()

    @property
    def peer_id(self) -> str:
        return self.address.rpartition("/p2p/")[2]

    def run(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Outcome:
        outcome = command(self.home, *arguments, timeout_s=timeout_s)
        if outcome.code == BUG_EXIT_CODE:  # the daemon's log has the traceback
            return replace(outcome, stderr=f"{self.log()}\n{outcome.stderr}")
        return outcome

    def json(self, *arguments: str) -> Any:
        return self.run(*arguments, "--json").value

    def status(self) -> Any:
        return self.json("status")

    def publish(self, folder: Path, name: str, version: str = "1.0", *more: str) -> Any:
        passphrase = self.home.with_name("passphrase")
        passphrase.write_text(PASSPHRASE)
        signing = ("--passphrase-file", str(passphrase), "--name", name, "--version", version)
        return self.json("publish", str(folder), *signing, *more)

    def wait_announced(self) -> None:
        """Until every key that it announces is held by somebody."""

        def is_announced() -> bool:
            state = self.status()
            return bool(state["announcements_held"]) and not state["announcements_queued"]

        until(is_announced, "announced", poll_s=0.2)

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """End it in order: its exit code and the seconds that it took."""
        return self._end(number)

    def _end(self, number: int) -> tuple[int, float]:
        process, self.process = self.process, None
        if process is None:
            return 0, 0.0
        begun_s = time.monotonic()
        process.send_signal(number)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        return process.returncode, time.monotonic() - begun_s


class Daemons:
    """The daemons of one test, in one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[Daemon] = []

    def make(
        self,
        name: str,
        *,
        bootstrap: Sequence[Daemon] = (),
        arguments: Sequence[str] = (),
        limits: Limits | None = None,
        home: Path | None = None,
    ) -> Daemon:
        """A daemon on ports of the system's choice, alone but for `bootstrap`; not started."""
        flags = ["--listen", "/ip4/127.0.0.1/tcp/0", "--lane-listen", "127.0.0.1:0"]
        flags += ["--gateway", "127.0.0.1:0", "--no-mdns", *arguments]
        for known in bootstrap:
            flags += ["--bootstrap", known.address]
        daemon = Daemon(home or self.folder / name, tuple(flags), limits=limits)
        self._all.append(daemon)
        return daemon

    def start(self, name: str, *, bootstrap: Sequence[Daemon] = ()) -> Daemon:
        return self.make(name, bootstrap=bootstrap).start()

    def start_all(self, names: Sequence[str], *, bootstrap: Sequence[Daemon]) -> list[Daemon]:
        """Several, which load their libraries side by side."""
        begun = [self.make(name, bootstrap=bootstrap).begin() for name in names]
        return [daemon.wait_ready() for daemon in begun]

    def end(self) -> None:
        for daemon in self._all:
            daemon.kill()


@contextmanager
def daemons() -> Iterator[Daemons]:
    """A folder whose path is short enough for sockets, and every daemon in it ended at last."""
    folder = Path(tempfile.mkdtemp(prefix="p2phub-"))
    world = Daemons(folder)
    try:
        yield world
    finally:
        world.end()
        shutil.rmtree(folder, ignore_errors=True)


def write_files(folder: Path, sizes: Mapping[str, int], seed: int) -> Path:
    """A folder of files of random bytes, the same for the same seed."""
    rng = random.Random(seed)
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(size))
    return folder


def is_same_tree(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes, and nothing else."""
    names = [{p.relative_to(root) for p in root.rglob("*") if p.is_file()} for root in (one, other)]
    return names[0] == names[1] and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names[0]
    )
