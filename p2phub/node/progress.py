"""How far an operation of a node is, told while it runs: part of `NodeApi`, under its rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Stage: TypeAlias = Literal[
    "resolve", "find", "documents", "transfer", "paused", "complete", "scan", "verify"
]


@dataclass(frozen=True, slots=True)
class Pause:
    """What a fetch waits for that a disk refuses."""

    kind: str  # of the error that the fetch would end with: StoreFull or StoreFailed
    lacking_bytes: int | None  # of room; None: not known, or not what is lacking
    path: str  # where; "": within store_max
    left_s: float  # until it gives up


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is. Counts verified bytes only, so it never goes back."""

    stage: Stage
    done_bytes: int  # verified (fetch, verify) or read and hashed (publish)
    total_bytes: int | None  # None: not known yet
    rate_bytes_per_s: float = 0.0  # over the last few seconds
    peers: int = 0  # that sent something in the last few seconds
    note: str = ""  # one line for a person: what is being waited for
    pause: Pause | None = None  # of the stage "paused"


ProgressSink: TypeAlias = Callable[[Progress], None]
