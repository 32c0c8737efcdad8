"""The announce queue: what this node tells the DHT, how fast, and again when. A machine over `now`.

Signatures first; the body follows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from p2phub.core.discovery.keys import KeyKind


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce one key."""

    key: bytes  # 32 bytes
    kind: KeyKind
    name: bytes  # 32 bytes
    number: int  # which of the name's keys


class AnnounceQueue:
    def __init__(self, rng: random.Random, policy: str = "objects") -> None: ...
    def add(self, kind: KeyKind, name: bytes, now: float, *, size_bytes: int = 0) -> bool:
        """Announce a name from now on; False if the policy leaves it out."""
        raise NotImplementedError

    def remove(self, kind: KeyKind, name: bytes) -> None: ...
    def on_result(self, announce: Announce, stored_count: int, now: float) -> None:
        """`stored_count` nodes took the record; 0: the announcement failed."""

    def on_providers(self, kind: KeyKind, name: bytes, count: int) -> None:
        """A lookup found `count` other providers: rarer names go first."""

    def next_actions(self, now: float) -> list[Announce]:
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        raise NotImplementedError

    def to_dict(self, now: float, wall_s: float) -> dict[str, object]:
        raise NotImplementedError

    @classmethod
    def from_dict(
        cls, data: Mapping[str, object], rng: random.Random, now: float, wall_s: float
    ) -> AnnounceQueue:
        raise NotImplementedError
