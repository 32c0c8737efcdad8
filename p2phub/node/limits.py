"""The limits that a person sets while the node runs: kept on disk, applied by the time of day.

They win over the settings `down_rate` and `up_rate`, with which a node starts that was told of
none.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from p2phub.core.swarm.limiter import Limiter
from p2phub.core.swarm.schedule import (
    Window,
    parse_rate,
    parse_schedule,
    rate_text,
    schedule_text,
    window_at,
)
from p2phub.errors import BadSetting, P2phubError, UsageError
from p2phub.net.base import PeerId, parse_peer_id
from p2phub.node.files import read_json, write_durably
from p2phub.node.limits_api import LimitChange, LimitsView, PeerLimit
from p2phub.node.rates import Rates

PEERS_MAX = 256  # with limits of their own: a person wrote each of them
LIMITS_BYTES_MAX = 256 << 10  # of the file
MINUTE_S = 60.0


@dataclass(slots=True)
class _Limits:
    """Bytes a second; None: no limit."""

    total: dict[str, int | None]  # by direction, "down" and "up"
    peers: dict[str, dict[str, int]] = field(default_factory=dict)  # by peer, then by direction
    schedule: tuple[Window, ...] = ()

    def to_dict(self) -> dict[str, object]:
        return {
            "total": {name: rate_text(rate) for name, rate in self.total.items()},
            "peers": {
                peer: {name: rate_text(rate) for name, rate in own.items()}
                for peer, own in self.peers.items()
            },
            "schedule": schedule_text(self.schedule),
        }

    @classmethod
    def from_dict(cls, kept: Any) -> _Limits:  # Any: json's
        """Raises ValueError, TypeError, KeyError, AttributeError where it was not written by us."""
        limits = cls({name: parse_rate(kept["total"][name]) for name in ("down", "up")})
        for peer, own in list(kept["peers"].items())[:PEERS_MAX]:
            rates = {name: parse_rate(own[name]) for name in ("down", "up") if name in own}
            limits.peers[peer] = {name: rate for name, rate in rates.items() if rate is not None}
        limits.schedule = parse_schedule(kept["schedule"])
        return limits


class Limiting:
    """The limits of a node. `run` must run for a schedule to hold."""

    def __init__(
        self,
        path: Path,
        down: Rates,
        up: Rates,
        *,
        down_rate: int | None = None,
        up_rate: int | None = None,
    ) -> None:
        """path: where limits are kept. down_rate, up_rate: where none are, in bytes a second."""
        self._path = path
        self._rates = {"down": down, "up": up}
        self._changed = trio.Event()
        kept = read_json(path, LIMITS_BYTES_MAX)
        try:
            self._limits = _Limits.from_dict(kept)
        except (ValueError, TypeError, KeyError, AttributeError):
            self._limits = _Limits({"down": down_rate, "up": up_rate})
        self._apply()

    async def run(self) -> None:
        """Follow the schedule until cancelled: it is looked at as each minute begins."""
        while True:
            self._changed = trio.Event()
            wait_s = MINUTE_S - time.time() % MINUTE_S if self._limits.schedule else float("inf")
            with trio.move_on_after(wait_s):
                await self._changed.wait()
            self._apply()

    async def limit(self, change: LimitChange) -> LimitsView:
        """As LimitsApi.limit."""
        wanted = _Limits.from_dict(self._limits.to_dict())
        given = {"down": change.down, "up": change.up}
        rates = {name: _read_rate(name, text) for name, text in given.items() if text is not None}
        if change.schedule is not None:
            if change.peer is not None:
                raise UsageError("a schedule is for all peers together; leave the peer out")
            wanted.schedule = _read_schedule(change.schedule)
        if change.peer is not None:
            own = wanted.peers.setdefault(_read_peer(change.peer), {})
            for name, rate in rates.items():
                own.pop(name, None)
                own.update({} if rate is None else {name: rate})
            wanted.peers = {peer: own for peer, own in wanted.peers.items() if own}
            if len(wanted.peers) > PEERS_MAX:
                raise UsageError(f"{PEERS_MAX} peers have limits of their own already")
        else:
            wanted.total.update(rates)
        if wanted != self._limits:
            data = json.dumps(wanted.to_dict()).encode()
            await trio.to_thread.run_sync(write_durably, self._path, data)
            self._limits = wanted
            self._apply()
            self._changed.set()
        return self.view()

    def view(self) -> LimitsView:
        limits, window, now = self._limits, self._window(), self._rates_now()
        return LimitsView(
            down=limits.total["down"],
            up=limits.total["up"],
            peers=tuple(
                PeerLimit(peer_id=peer, down=own.get("down"), up=own.get("up"))
                for peer, own in limits.peers.items()
            ),
            schedule=schedule_text(limits.schedule),
            window="" if window is None else str(window),
            down_now=now["down"],
            up_now=now["up"],
        )

    def _window(self) -> Window | None:
        clock = time.localtime()
        return window_at(self._limits.schedule, 60 * clock.tm_hour + clock.tm_min)

    def _rates_now(self) -> dict[str, int | None]:
        window = self._window()
        return {**self._limits.total, **dict(() if window is None else window.limits)}

    def _apply(self) -> None:
        rates_now = self._rates_now()
        for name, rates in self._rates.items():
            with rates.limits_changed() as limiter:
                self._set(limiter, name, rates_now[name])

    def _set(self, limiter: Limiter, name: str, rate: int | None) -> None:
        now = trio.current_time()
        limiter.set_rate(rate, now)
        for peer in limiter.limited_peers:
            limiter.unset_peer_rate(peer)
        for peer, own in self._limits.peers.items():
            if name in own:
                limiter.set_peer_rate(peer, own[name], now)


def _read_rate(name: str, text: str) -> int | None:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise BadSetting(
            f"{name}: {text[:40]!r} {error} (or off)", setting=name, value=text[:40]
        ) from None


def _read_schedule(text: str) -> tuple[Window, ...]:
    try:
        return parse_schedule(text)
    except ValueError as error:
        shown = text[:100]
        raise BadSetting(
            f"schedule: {shown!r} {error} (such as 22:00-07:00 down=off up=10M, or off)",
            setting="schedule",
            value=shown,
        ) from None


def _read_peer(text: str) -> PeerId:
    try:
        return parse_peer_id(text)
    except P2phubError:
        raise UsageError(f"{text[:80]!r} is not a peer id; see `p2phub peers`") from None
