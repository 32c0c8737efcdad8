"""What the doors may ask of a node's rate limits, and the values they get back: part of `NodeApi`,
under the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChange:
    """New limits as a person writes them: 50M, 500K, or `off` for none. None: as it was."""

    down: str | None = None
    up: str | None = None
    peer: str | None = None  # a peer id: the limits of this peer alone; None: of all together
    schedule: str | None = None  # see `p2phub.core.swarm.schedule`; `off` for none


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimit:
    """The limits of one peer, in bytes a second; None: none of its own."""

    peer_id: str
    down: int | None
    up: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsView:
    """All limits, in bytes a second; None: no limit."""

    down: int | None  # over all peers, outside the schedule's windows
    up: int | None
    peers: tuple[PeerLimit, ...]
    schedule: str  # "" for none
    window: str  # the one that holds now; "" for none
    down_now: int | None  # what holds now
    up_now: int | None


class LimitsApi(Protocol):
    """How fast this node may download and upload."""

    async def limit(self, change: LimitChange) -> LimitsView:
        """Change limits at once, for this and later starts; a change of nothing shows them.

        Raises BadSetting, UsageError.
        """
        ...
