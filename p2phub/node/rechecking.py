"""Looking, now and then, whether what is held is still there: adopted files that were edited or
removed, and what a read found damaged. Nothing of it is announced any longer, and the user is told.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from p2phub.errors import StoreError
from p2phub.node.announcing import Announcing
from p2phub.store.base import Store

RECHECKED_FILES = 32  # at each `status`, which is to answer at once however many there are
RECHECK_PERIOD_S = 60.0  # between two looks at whether adopted files changed


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

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await trio.sleep(RECHECK_PERIOD_S)

    async def look(self, count_max: int | None = None) -> None:
        """Look now. count_max: at so many files, the next time at others."""
        try:
            await trio.to_thread.run_sync(self._store.recheck, count_max)
        except StoreError as error:  # a full disk, perhaps: reading and sending go on all the same
            if str(error) != self._last_failure:
                self._last_failure = str(error)
                self._on_notice(type(error).__name__, str(error))
            return
        for lost in await trio.to_thread.run_sync(self._store.withdrawn):
            try:
                status = await trio.to_thread.run_sync(self._store.status, lost.object)
            except StoreError:
                status = None  # its SHA-256 lapses with the rest
            self._announcing.withdraw_object(lost.object, status.sha256 if status else None)
            if lost.is_damage:
                self._on_damage()
                self._on_notice(
                    "CorruptChunk",
                    f"{lost.reason}: that part is shared no longer, and is fetched again from peers"
                    " that hold it; check the disk",
                )
            else:
                self._on_notice(
                    "FileChanged",
                    f"{lost.reason}: what it held is no longer shared. Fetch it anew; or, of your "
                    "own release, put the file back and publish again, or publish it as another "
                    "version",
                )
