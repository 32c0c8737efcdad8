"""Fetches that wait while a disk is full, read-only or away, and go on by themselves.

Nothing that a disk refused is made again here and believed: a fetch that pauses lets go of its
peers, and when the disk takes files again it begins anew from what is durable, as the same command
would. What was written and not synced is missing until it was fetched again.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from pathlib import Path

import trio

from p2phub.display import size_text
from p2phub.durable import check_writable, room_at
from p2phub.errors import StoreError, StoreFailed, StoreFull
from p2phub.node.api import Fetched, FetchRequest, PeerShare
from p2phub.node.figures import Transfer as TransferView
from p2phub.node.progress import Pause, Progress, ProgressSink
from p2phub.node.resolving import Resolved
from p2phub.node.upkeep import Upkeep
from p2phub.paths import PART_FOLDER, Home, StoreFolder
from p2phub.proto.content_id import content_id_text
from p2phub.proto.names import parse_reference

LOOK_S_MIN, LOOK_S_MAX = 1.0, 15.0  # between two looks; twice as long each time

# What ends by itself or by the user's doing, while the fetch need not change.
_PASSING = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT, errno.ENODEV, errno.ENXIO,
        errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT,
    }
)  # fmt: skip
_PASSING_IN_INDEX = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")

log = logging.getLogger(__name__)


def may_pass(error: StoreError) -> bool:
    """Whether waiting can help: the disk is full or away, and not too small or forbidden."""
    if not isinstance(error, StoreFull | StoreFailed):
        return False
    needed, limit = error.facts.get("needed"), error.facts.get("limit")
    if isinstance(needed, int) and isinstance(limit, int) and needed > limit:
        return False
    number = error.facts.get("errno")
    if number is not None:
        return number in _PASSING
    reason = str(error.facts.get("reason", ""))
    return reason.startswith(_PASSING_IN_INDEX) if reason else isinstance(error, StoreFull)


class Pauses:
    """The fetches of one node that wait for room now."""

    def __init__(self, home: Home, upkeep: Upkeep) -> None:
        self.home = home
        self.upkeep = upkeep
        self.waiting: dict[PausableFetch, TransferView] = {}

    def views(self) -> tuple[TransferView, ...]:
        return tuple(self.waiting.values())


class PausableFetch:
    """One fetch over all its pauses."""

    def __init__(self, request: FetchRequest, progress: ProgressSink, pauses: Pauses) -> None:
        self.request = request  # its reference names the version once that is known
        self.resolved: Resolved | None = None
        self.shares: list[PeerShare] = []  # of peers, before each pause and after
        self.let_go: list[str] = []  # releases that made room for it
        self.paused_s = 0.0
        self._pauses = pauses
        self._sink = progress
        self._newest = Progress("resolve", 0, None)
        self._done_bytes = 0
        self._look_s = LOOK_S_MIN
        self._left_s = request.room_wait_s
        # Parts lie in the user's folder: it is the same one as long as they do.
        self._has_parts = False

    def report(self, progress: Progress) -> None:
        """Pass it on; never going back, though what a disk lost is fetched twice."""
        if progress.stage == "transfer":
            if progress.done_bytes > self._done_bytes:
                self._look_s, self._left_s = LOOK_S_MIN, self.request.room_wait_s
            self._done_bytes = max(self._done_bytes, progress.done_bytes)
            progress = replace(progress, done_bytes=self._done_bytes)
            self._newest = progress
        self._sink(progress)

    def on_resolved(self, resolved: Resolved) -> None:
        """What is fetched is known, and stays the same after a pause."""
        self.resolved = resolved
        self.request = replace(self.request, reference=parse_reference(resolved.text))

    def on_transfer(self) -> None:
        """Parts were opened, in the user's folder if there is one."""
        self._has_parts = self._part_folder is not None and os.path.isdir(self._part_folder)

    def on_transferred(self) -> None:
        """All is here, and is brought to its place from now on."""
        self._has_parts = False

    def completed(self, fetched: Fetched) -> Fetched:
        """With what came and went before the last pause."""
        gone = tuple(f"{name} was removed, to make room within store_max" for name in self.let_go)
        return replace(
            fetched,
            peers=_merged(self.shares),
            paused_seconds=self.paused_s,
            warnings=fetched.warnings + gone,
        )

    async def wait(self, error: StoreError) -> None:
        """Until the disk takes files again. Raises the error where that can't be or took too long.

        Cancelled at any moment nothing is left behind.
        """
        if not may_pass(error) or not self.request.room_wait_s:
            raise error
        if "room" in error.facts and not self._done_bytes:
            raise error  # larger than what store_max and the pins leave: refused, not begun
        log.warning("a fetch of %s pauses: %s", self.request.reference, error)
        while True:
            if self._left_s <= 0:
                raise self._given_up(error) from error
            await self._sleep(error)
            try:
                await self._look(error)
            except (StoreFull, StoreFailed) as again:
                if not may_pass(again):
                    raise
                error = again
                continue
            log.info("the fetch of %s goes on", self.request.reference)
            return

    async def _sleep(self, error: StoreError) -> None:
        began_s = trio.current_time()
        pause = Pause(
            kind=error.kind,
            lacking_bytes=_lacking_bytes(error),
            path=str(error.facts.get("path", "")),
            left_s=self._left_s,
        )
        total_bytes = self._newest.total_bytes
        paused = Progress("paused", self._done_bytes, total_bytes, note=_what(error), pause=pause)
        self._sink(paused)
        reference, content_id = str(self.request.reference), ""
        if self.resolved is not None:
            content_id = content_id_text(self.resolved.digest)
        self._pauses.waiting[self] = TransferView(
            reference=reference, content_id=content_id, progress=paused
        )
        try:
            await trio.sleep(min(self._look_s, self._left_s))
        finally:
            del self._pauses.waiting[self]
            self.paused_s += trio.current_time() - began_s
        self._left_s -= trio.current_time() - began_s
        self._look_s = min(2 * self._look_s, LOOK_S_MAX)

    async def _look(self, error: StoreError) -> None:
        """Raises StoreFull or StoreFailed while it would only be refused again."""
        await trio.to_thread.run_sync(self._look_at_disks, error)
        needed = error.facts.get("needed")
        if "room" in error.facts and isinstance(needed, int) and self.resolved is not None:
            self.let_go += await self._pauses.upkeep.make_room(self.resolved.digest, needed)

    def _look_at_disks(self, error: StoreError) -> None:
        destination = self.request.destination
        check_writable(StoreFolder(self._pauses.home.store).scratch)
        if self._part_folder is not None and self._has_parts:
            check_writable(self._part_folder)
        elif destination is not None and os.path.isdir(destination):
            check_writable(destination)
        path, needed = error.facts.get("path"), error.facts.get("needed")
        if path is None or not isinstance(needed, int) or "free" not in error.facts:
            return
        free_bytes = room_at(Path(str(path))).free
        if free_bytes < needed:
            raise type(error)(str(error), **{**error.facts, "free": free_bytes})

    @property
    def _part_folder(self) -> Path | None:
        folder = self.request.destination
        return None if folder is None else folder / PART_FOLDER

    def _given_up(self, error: StoreError) -> StoreError:
        waited_s = self.request.room_wait_s
        waited = f"{waited_s:.0f} s" if waited_s < 60 else f"{waited_s / 60:.0f} min"
        return type(error)(
            f"{error}. Waited {waited} for it", **error.facts, waited_s=self.paused_s
        )


def _lacking_bytes(error: StoreError) -> int | None:
    """Room that is lacking, where that is known."""
    needed = error.facts.get("needed")
    there = error.facts.get("free", error.facts.get("room"))
    if isinstance(needed, int) and isinstance(there, int):
        return max(0, needed - there)
    return None


def _what(error: StoreError) -> str:
    """What is waited for and what to do, as one line."""
    lacking_bytes, path = _lacking_bytes(error), error.facts.get("path")
    if isinstance(error, StoreFailed):
        number = error.facts.get("errno")
        if not isinstance(number, int):
            return str(error)  # of the index
        reason = os.strerror(number)
        return f"the disk refuses at {path} ({reason}): it goes on once files can be written there"
    if "room" in error.facts:
        room = f"{size_text(lacking_bytes or 0)} more room is needed within store_max"
        return f"{room}: remove or unpin a release, and it goes on"
    if lacking_bytes is None:
        return f"there is no room at {path}: free some space, and it goes on"
    return f"{size_text(lacking_bytes)} more room is needed at {path}: free it, and it goes on"


def _merged(shares: list[PeerShare]) -> tuple[PeerShare, ...]:
    """One for each peer."""
    merged: dict[str, PeerShare] = {}
    for share in shares:
        known = merged.get(share.peer_id)
        if known is not None:
            share = replace(
                share,
                address=share.address or known.address,
                bytes=share.bytes + known.bytes,
                fault=share.fault or known.fault,
            )
        merged[share.peer_id] = share
    return tuple(merged.values())
