"""A published file that somebody touched is shared again by itself, unless it is another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from p2phub.node.node import Node
from p2phub.store.base import ObjectState
from tests.node.real_nodes import node, publish, write_model
from tests.node.test_repairing import object_named


async def published(running: Node, folder: Path) -> bytes:
    """The object of a published file that is used where it lies."""
    content_id = await publish(running, folder)
    if not running._store.usage().adopted_bytes:
        pytest.skip("this file system shares blocks, so nothing is used in place")
    return await object_named(running, content_id, "weights.bin")


def kinds(running: Node) -> list[str]:
    return [notice.kind for notice in running._notices]


async def until_told(running: Node, kind: str, count: int) -> None:
    with trio.fail_after(30):
        while kinds(running).count(kind) < count:
            await running._rechecking.reread()
            await trio.sleep(0.2)


async def test_a_touched_file_is_shared_again_after_it_was_read(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        weights = await published(a, model)
        announced = a._announcing.statistics().keys_count
        (model / "weights.bin").chmod(0o600)
        await a.status()
        status = a._store.status(weights)
        assert status is not None and status.state is ObjectState.CHANGED
        assert kinds(a) == ["FileTouched"]
        await until_told(a, "FileTouched", 2)
        status = a._store.status(weights)
        assert status is not None and status.state is ObjectState.COMPLETE
        assert "shared again" in a._notices[-1].message
        assert a._announcing.statistics().keys_count == announced


async def test_a_file_whose_time_was_put_back_is_not_shared(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    async with node(tmp_path / "a") as a:
        weights = await published(a, model)
        before = (model / "weights.bin").stat()
        with (model / "weights.bin").open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"another middle")
        os.utime(model / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
        await a.status()
        await until_told(a, "FileChanged", 1)
        status = a._store.status(weights)
        assert status is not None and status.state is ObjectState.CHANGED
        assert status.held_bytes == 0
        assert str(model / "weights.bin") in a._notices[-1].message
