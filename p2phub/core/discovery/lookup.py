"""Kademlia's lookup: ask the nodes nearest to a position for nearer ones, until the nearest 20 have
answered.

Decides whom to ask next; asking is done elsewhere.
Source: Maymounkov and Mazieres 2002, 2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from p2phub.proto.limits import DHT_CANDIDATES_MAX

CLOSEST_MAX = 20  # k of the paper
QUESTIONS_AT_ONCE = 6  # alpha: one slow node in three still leaves four answering


class Answer(Enum):
    """What is known of a candidate."""

    UNASKED = "unasked"
    AWAITED = "awaited"
    RECEIVED = "received"
    FAILED = "failed"


@dataclass(slots=True)
class Candidate:
    """A node that somebody named."""

    peer: str
    distance: int
    addresses: tuple[str, ...]
    answer: Answer = Answer.UNASKED


class Lookup:
    """One walk towards a position."""

    def __init__(self, position: int, own_peer: str, position_of: Callable[[str], int]) -> None:
        """position_of: a peer id's place in the key space; asked once per candidate."""
        self._position = position
        self._own_peer = own_peer
        self._position_of = position_of
        self._candidates: dict[str, Candidate] = {}
        self._is_sorted = True
        self.asked_count = 0
        self.answered_count = 0

    def add(self, nodes: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        """Nodes that were named, with addresses; ourselves and known ones are passed over."""
        for peer, addresses in nodes:
            if peer == self._own_peer or not addresses or peer in self._candidates:
                continue
            distance = self._position_of(peer) ^ self._position
            self._candidates[peer] = Candidate(peer, distance, addresses)
            self._is_sorted = False
        if len(self._candidates) > DHT_CANDIDATES_MAX:
            self._forget_farthest()

    def next_candidates(self) -> list[Candidate]:
        """Whom to ask now; they count as asked. Empty: wait for an answer, or `is_done`."""
        awaited = sum(candidate.answer is Answer.AWAITED for candidate in self._candidates.values())
        chosen = [
            candidate for candidate in self._contenders() if candidate.answer is Answer.UNASKED
        ]
        chosen = chosen[: max(QUESTIONS_AT_ONCE - awaited, 0)]
        for candidate in chosen:
            candidate.answer = Answer.AWAITED
        self.asked_count += len(chosen)
        return chosen

    def on_answer(self, peer: str) -> None:
        self.answered_count += 1
        if peer in self._candidates:
            self._candidates[peer].answer = Answer.RECEIVED

    def on_failure(self, peer: str) -> None:
        if peer in self._candidates:
            self._candidates[peer].answer = Answer.FAILED

    @property
    def is_done(self) -> bool:
        """The nearest CLOSEST_MAX that did not fail have all answered."""
        return all(candidate.answer is Answer.RECEIVED for candidate in self._contenders())

    def closest(self) -> list[Candidate]:
        """The nodes nearest to the position that answered, nearest first, at most CLOSEST_MAX."""
        return [found for found in self._sorted() if found.answer is Answer.RECEIVED][:CLOSEST_MAX]

    def _contenders(self) -> list[Candidate]:
        return [found for found in self._sorted() if found.answer is not Answer.FAILED][
            :CLOSEST_MAX
        ]

    def _sorted(self) -> list[Candidate]:
        if not self._is_sorted:
            ordered = sorted(self._candidates.values(), key=lambda candidate: candidate.distance)
            self._candidates = {candidate.peer: candidate for candidate in ordered}
            self._is_sorted = True
        return list(self._candidates.values())

    def _forget_farthest(self) -> None:
        for candidate in reversed(self._sorted()):
            if len(self._candidates) <= DHT_CANDIDATES_MAX:
                return
            if candidate.answer is Answer.UNASKED:
                del self._candidates[candidate.peer]
