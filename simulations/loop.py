"""One machine's task on a node: it acts a moment after something happened, and at its deadline."""

from __future__ import annotations

from collections.abc import Callable

from simulations.engine import Engine

BATCH_S = 0.005  # from an event to what is done about it: what happens meanwhile is done with it


class Loop:
    """act: asks the machine what to do and does it. next_deadline: when it must be asked again even
    if nothing happens; None: no need.
    """

    def __init__(
        self, engine: Engine, act: Callable[[], None], next_deadline: Callable[[], float | None]
    ) -> None:
        self._engine = engine
        self._act = act
        self._next_deadline = next_deadline
        self._is_awaited = False
        self._timer_at: float | None = None  # the latest timer that was set and has not rung

    def soon(self) -> None:
        """Something happened."""
        if not self._is_awaited:
            self._is_awaited = True
            self._engine.after(BATCH_S, self._run)

    def look(self) -> None:
        """Something happened about which there may be nothing to do: the machine's deadline says
        so.
        """
        if not self._is_awaited:
            self._plan()

    def _run(self) -> None:
        self._is_awaited = False
        self._act()
        self._plan()

    def _plan(self) -> None:
        time = self._next_deadline()
        if time is None:
            return
        now = self._engine.now
        if time <= now:
            self.soon()
        elif self._timer_at is None or not now < self._timer_at <= time:
            self._timer_at = time
            self._engine.at(time, self._on_timer, time)

    def _on_timer(self, set_for: float) -> None:
        if self._timer_at == set_for and not self._is_awaited:
            self._timer_at = None
            self._run()
