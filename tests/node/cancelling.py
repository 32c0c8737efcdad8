"""Cancelling at any step: for tests that what is cancelled leaves nothing behind."""

from __future__ import annotations

import trio


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope at the n-th step that any task makes."""

    def __init__(self, scope: trio.CancelScope, count: int) -> None:
        self._scope = scope
        self._left_count = count

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left_count -= 1
        if self._left_count == 0:
            self._scope.cancel()
