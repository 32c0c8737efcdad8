"""A control socket over a node in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from p2phub.control.client import ControlClient
from p2phub.control.methods import DaemonFacts
from p2phub.control.server import serve_control
from p2phub.node.api import NodeApi
from p2phub.paths import Home

T = TypeVar("T")


@asynccontextmanager
async def controlled(node: NodeApi, folder: Path) -> AsyncIterator[Home]:
    """A home whose control socket answers for `node`."""
    home = Home(folder / "home")
    home.root.mkdir(mode=0o700, exist_ok=True)
    facts = DaemonFacts(
        version="0", pid=1, home=home.root, gateway="http://127.0.0.1:7777", settings={}
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, node, facts, home.control_socket)
        yield home
        with trio.fail_after(5):
            nursery.cancel_scope.cancel()


async def call(home: Home, method: str, **params: Any) -> Any:
    """One call on a connection of its own, in a thread as a command would make it."""

    def work() -> Any:
        with ControlClient.connect(home) as client:
            return client.call(method, **params)

    return await in_thread(work)


async def in_thread(work: Callable[[], T]) -> T:
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(partial(work), abandon_on_cancel=True)
