"""Looking, now and then, whether what is held is still there: adopted files that were edited or
removed, and what a read found damaged. Nothing of it is announced any longer, and the user is told.

An adopted file that was only touched (chmod, a hard link, a move) is read again by itself: what is
as it was is held and announced again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import trio

from p2phub.errors import StoreError
from p2phub.node.announcing import Announcing
from p2phub.node.tasks import open_tasks
from p2phub.store.base import Store, Withdrawn

RECHECKED_FILES = 32  # at each `status`, which is to answer at once however many there are
RECHECK_PERIOD_S = 60.0  # between two looks at whether adopted files changed
REREAD_BYTES = 16 << 20  # of a touched file at once; then the disk rests for as long as that took
REREAD_PAUSE_S = 5.0  # before files are read that were touched just now
TOLD_MAX = 3  # files named in one sentence

_EDITED = (
    "what it held is no longer shared. Fetch it anew; or, of your own release, put the file back"
    " and publish again, or publish it as another version"
)

log = logging.getLogger(__name__)


class Rechecking:
    """The looks of one node. `run` must run.

    on_notice: told what the user should know, as (kind, sentence). on_damage: told when the disk
    damaged something.
    """

    def __init__(
        self,
        store: Store,
        announcing: Announcing,
        on_notice: Callable[[str, str], None],
        *,
        on_damage: Callable[[], None],
    ) -> None:
        self._store = store
        self._announcing = announcing
        self._on_notice = on_notice
        self._on_damage = on_damage
        self._last_failure = ""  # told once
        self._is_touched = False  # some file was, since they were read again
        self._looked = trio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        async with open_tasks() as nursery:
            nursery.start_soon(self._reread_regularly)
            while True:
                await self.look()
                self._looked.set()
                await trio.sleep(RECHECK_PERIOD_S)

    async def _reread_regularly(self) -> None:
        while True:
            self._looked = trio.Event()
            try:
                await self.reread()
            except StoreError as error:
                log.warning("touched files can't be read again now: %s", error)
            await self._looked.wait()  # at the same time: each wake of a resting node costs
            if self._is_touched:
                self._is_touched = False
                await trio.sleep(REREAD_PAUSE_S)

    async def reread(self) -> None:
        """Read all files again that were touched, slowly."""
        believed: list[str] = []
        while True:
            began_s = trio.current_time()
            step = await trio.to_thread.run_sync(self._store.reread, REREAD_BYTES, time.time())
            for name in step.believed:
                status = await trio.to_thread.run_sync(self._store.status, name)
                if status is not None:
                    self._announcing.announce_object(name, status.size, status.sha256)
                    believed.append(str(status.path))
            for path in step.changed:
                self._on_notice("FileChanged", f"{path} is not what it was: {_EDITED}")
            if step.is_over:
                break
            if step.read_bytes:
                await trio.sleep(trio.current_time() - began_s)
        if believed:
            self._on_notice("FileTouched", f"as it was, and shared again: {_named(believed)}")

    async def look(self, count_max: int | None = None) -> None:
        """Look now. count_max: at so many files, the next time at others."""
        try:
            gone = await trio.to_thread.run_sync(self._recheck, count_max)
        except StoreError as error:  # a full disk, perhaps: reading and sending go on all the same
            if str(error) != self._last_failure:
                self._last_failure = str(error)
                self._on_notice(type(error).__name__, str(error))
            return
        touched: list[str] = []
        for lost in gone:
            try:
                status = await trio.to_thread.run_sync(self._store.status, lost.object)
            except StoreError:
                status = None  # its SHA-256 lapses with the rest
            self._announcing.withdraw_object(lost.object, status.sha256 if status else None)
            if lost.is_touched:
                touched.append(str(lost.path))
            elif lost.is_damage:
                self._on_damage()
                self._on_notice(
                    "CorruptChunk",
                    f"{lost.reason}: that part is shared no longer, and is fetched again from peers"
                    " that hold it; check the disk",
                )
            else:
                self._on_notice("FileChanged", f"{lost.reason}: {_EDITED}")
        if touched:
            self._is_touched = True
            self._looked.set()
            self._on_notice(
                "FileTouched",
                f"touched, and shared no longer until read again: {_named(touched)}",
            )

    def _recheck(self, count_max: int | None) -> list[Withdrawn]:
        self._store.recheck(count_max)
        return self._store.withdrawn()


def _named(paths: Sequence[str]) -> str:
    rest = f" and {len(paths) - TOLD_MAX} more" if len(paths) > TOLD_MAX else ""
    return ", ".join(paths[:TOLD_MAX]) + rest
