"""Real daemons in processes of their own, on loopback, and real commands that talk to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

P2PHUB = Path(sys.executable).with_name("p2phub")
READY_TIMEOUT_S = 60
LOOPBACK = (
    "--listen", "/ip4/127.0.0.1/tcp/0", "--lane-listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0",
    "--no-mdns",
)  # fmt: skip


def command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the program, run to its end."""
    return subprocess.run(
        [str(P2PHUB), "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@dataclass
class Daemon:
    """One running daemon."""

    home: Path
    flags: tuple[str, ...] = LOOPBACK
    process: subprocess.Popen[str] = field(init=False)
    ready: str = field(init=False)

    def start(self) -> None:
        """Start, and wait for the ready line."""
        with (self.home.parent / f"{self.home.name}.log").open("a") as log:
            self.process = subprocess.Popen(
                [str(P2PHUB), "--home", str(self.home), "daemon", *self.flags],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline().rstrip("\n")
        assert self.ready.startswith("ready "), self.log

    @property
    def log(self) -> str:
        return (self.home.parent / f"{self.home.name}.log").read_text()

    @property
    def address(self) -> str:
        return self.ready.split(" ")[1]

    @property
    def gateway(self) -> str:
        return self.ready.split(" ")[2]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code. Raises TimeoutExpired after five seconds."""
        os.kill(self.process.pid, number)
        try:
            return self.process.wait(5)
        finally:
            self._clean_up()

    def run(self, *arguments: str) -> Any:
        """A command's JSON; it must go through."""
        done = command(self.home, "--json", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and error of a command that must not go through."""
        done = command(self.home, "--json", *arguments)
        assert done.returncode != 0 and done.stdout == ""
        return done.returncode, json.loads(done.stderr.splitlines()[-1])["error"]

    def _clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running(home: Path, *flags: str) -> Iterator[Daemon]:
    """A daemon that serves, and is gone afterwards."""
    daemon = Daemon(home, flags or LOOPBACK)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon._clean_up()


def publish(daemon: Daemon, folder: Path, name: str, version: str, kind: str = "model") -> Any:
    """Publish with keys whose passphrase lies beside the home; the command's JSON."""
    passphrase = daemon.home.parent / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    return daemon.run(
        *("publish", str(folder), "--name", name, "--version", version, "--kind", kind),
        *("--license", "MIT", "--passphrase-file", str(passphrase)),
    )
