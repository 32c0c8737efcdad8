"""Real daemons in homes of their own, and real commands that talk to them."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from p2phub.cli.render import note
from p2phub.control.client import ControlClient
from p2phub.paths import Home

READY_TIMEOUT_S: Final = 60.0  # importing everything takes two seconds on a machine that is idle
COMMAND_TIMEOUT_S: Final = 300.0
P2PHUB: Final = (sys.executable, "-P", "-m", "p2phub.cli")


class DemoFailed(Exception):
    """Something was not as it must be."""


class DemoNode:
    """One node of the demonstration."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.home = folder / name
        self.address = ""
        self.gateway = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self, bootstrap: Sequence[str] = ()) -> None:
        """Start the daemon and wait until it serves. A port that was once given is kept."""
        port = self.address.split("/")[4] if self.address else "0"
        command = [
            *P2PHUB, "--home", str(self.home), "daemon", "--no-mdns",
            "--listen", f"/ip4/127.0.0.1/tcp/{port}",
            "--lane-listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0",
        ]  # fmt: skip
        for address in bootstrap:
            command += ["--bootstrap", address]
        self.home.mkdir(mode=0o700, exist_ok=True)
        with (self.home / "stderr.log").open("a") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        words = self._ready_line(self._process).split()
        if len(words) != 3 or words[0] != "ready":
            raise DemoFailed(f"{self.name} did not start: see {self.home / 'stderr.log'}")
        self.address, self.gateway = words[1], words[2]

    def _ready_line(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(READY_TIMEOUT_S):
                raise DemoFailed(f"{self.name} is not ready after {READY_TIMEOUT_S:.0f} s")
        return process.stdout.readline()

    @property
    def peer_id(self) -> str:
        return self.address.rpartition("/")[2]

    def kill(self) -> None:
        """End the daemon as a power cut does: SIGKILL, no good-bye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the daemon in order. Raises DemoFailed if it takes longer than 5 s."""
        if self._process is None:
            return
        started = time.monotonic()
        code = self._end(signal.SIGTERM)
        if code != 0 or time.monotonic() - started > 5:
            raise DemoFailed(f"{self.name} did not end cleanly (exit code {code})")

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        assert process.stdout is not None
        process.stdout.close()
        return code

    def connect(self) -> ControlClient:
        return ControlClient.connect(Home(self.home))

    def run(self, *arguments: str) -> Any:  # Any: a command's JSON
        """A command's result. Raises DemoFailed with what it said."""
        done = self._command(*arguments)
        if done.returncode != 0:
            raise DemoFailed(f"p2phub {' '.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> tuple[int, str]:
        """Exit code and kind of the error of a command that must fail.

        Raises DemoFailed if it does not.
        """
        done = self._command(*arguments)
        if done.returncode == 0:
            raise DemoFailed(f"p2phub {' '.join(arguments)}: went through, and must not")
        return done.returncode, json.loads(done.stderr.splitlines()[-1])["error"]["kind"]

    def _command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        note(f"  {self.name}$ p2phub {' '.join(_short(word) for word in arguments)}")
        return subprocess.run(
            [*P2PHUB, "--home", str(self.home), "--json", *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )


def read_by_stock_tools(gateway: str, cache: Path, *arguments: str) -> Any:  # Any: its JSON
    """Run demo_reader.py, which knows nothing of p2phub, with HF_ENDPOINT set.

    Raises DemoFailed.
    """
    environment = {
        **os.environ,
        "HF_ENDPOINT": gateway,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "p2phub.cli.demo_reader", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise DemoFailed(f"reading through the gateway: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _short(word: str) -> str:
    """Temporary folders and long ids, as one likes to read them."""
    if word.startswith("/") and "/p2p/" not in word:
        return f"…/{Path(word).name}"
    return word if len(word) <= 60 else f"{word[:20]}…{word[-8:]}"
