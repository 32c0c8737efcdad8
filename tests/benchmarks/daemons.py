"""Real daemons on loopback for measurements, driven through the command line as a person would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import cpu_of_s, peak_rss_mb, rss_mb

COMMAND = str(Path(sys.executable).with_name("p2phub"))
PROGRAM = (COMMAND, "daemon")
PASSPHRASE = "measured, not secret"
ENDING_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Daemon:
    """One running daemon and its home."""

    home: Path
    process: subprocess.Popen[str]
    address: str  # multiaddr with /p2p
    ready_s: float  # from its start to the line that says it serves

    def run(self, *arguments: str) -> Any:
        """What `p2phub ARGUMENTS --json` answers.

        Raises RuntimeError with its words if it fails.
        """
        done = subprocess.run(
            [COMMAND, *arguments, "--json"],
            env=_environment(self.home),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"p2phub {' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout.splitlines()[-1])

    def publish(self, folder: Path, version: str = "1") -> Any:
        """Share `folder` as release `measured`."""
        passphrase = self.home.parent / "passphrase"
        passphrase.write_text(PASSPHRASE + "\n")
        return self.run(
            *("publish", str(folder), "--name", "measured", "--version", version),
            *("--passphrase-file", str(passphrase)),
        )

    def fetch(self, reference: str, peer: str, target: Path | None = None) -> Any:
        """Fetch from one peer that is named."""
        output = [] if target is None else ["-o", str(target)]
        return self.run("fetch", reference, "--peer", peer, *output)

    def cat(self, reference: str, path: str, first: int, last: int, peer: str) -> bytes:
        """Bytes `first` to `last` of a file that a peer holds. Raises CalledProcessError."""
        part = ("--range", f"{first}-{last}", "--peer", peer)
        return subprocess.run(
            [COMMAND, "cat", reference, path, *part],
            env=_environment(self.home),
            capture_output=True,
            check=True,
        ).stdout

    @property
    def peak_rss_mb(self) -> float:
        return peak_rss_mb(self.process.pid)

    @property
    def rss_mb(self) -> float:
        return rss_mb(self.process.pid)

    @property
    def cpu_s(self) -> float:
        return cpu_of_s(self.process.pid)


@contextmanager
def daemon(
    home: Path, *options: str, host: str = "127.0.0.1", program: Sequence[str] = PROGRAM
) -> Iterator[Daemon]:
    """A daemon that serves; it is ended by SIGTERM, as a service would be.

    host: the address that peers reach it at. program: another command that takes its options.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = (home.parent / f"{home.name}.log").open("w+")
    started_s = time.perf_counter()
    process = subprocess.Popen(
        [
            *(*program, "--listen", f"/ip4/{host}/tcp/0"),
            *("--lane-listen", f"{host}:0", "--gateway", "127.0.0.1:0", "--no-mdns", *options),
        ],
        env=_environment(home),
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        if not ready or ready[0] != "ready":
            log.seek(0)
            raise RuntimeError(f"a daemon did not start: {log.read().strip()}")
        yield Daemon(home, process, ready[1], time.perf_counter() - started_s)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(ENDING_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
        log.close()


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "P2PHUB_HOME": str(home)}
