"""Commands run in this process against a control socket over a node in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from p2phub.cli.main import run
from p2phub.paths import Home
from tests.control.serving import in_thread


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error of a command with --json."""
        return json.loads(self.err.splitlines()[-1])["error"]


class Terminal:
    """Runs commands for one home."""

    def __init__(self, home: Home, capture: pytest.CaptureFixture[str]) -> None:
        self._home = home
        self._capture = capture

    async def __call__(self, *arguments: str) -> Done:
        self._capture.readouterr()
        code = await in_thread(lambda: run(["--home", str(self._home.root), *arguments]))
        out, err = self._capture.readouterr()
        return Done(code, out, err)
