"""Upload slots: who may request, whose request is sent next. A machine over `now`.

Few peers are served at once (`Parallel`), and they take turns: a slot that is not used goes on at
once, one that is used after TURN_S if somebody with a better claim waits. Whoever gave us most for
what it got has the best claim: givers are paid back, who only takes comes when nobody else wants,
and a seed, to whom nobody gives, serves everybody alike. Chance decides among newcomers, and about
a share of the slots. Requests are few per peer and few in all; each peer's are served in order, and
`Wire` says which is sent next.
Who loses its slot gets what was begun, and a rejection of each request that was not.
Source: BitTorrent (Cohen 2003): reciprocity, chances for newcomers; BEP 6: explicit rejections;
the ledgers of Bitswap (Benet 2014).
"""

from __future__ import annotations

import math
import random
from operator import attrgetter

from p2phub.core.swarm.actions import (
    Peer,
    SendChoke,
    SendReject,
    SendUnchoke,
    StartUpload,
    StopUpload,
    UploadAction,
)
from p2phub.core.swarm.parallel import Parallel
from p2phub.core.swarm.wire import Line, Request, Wire
from p2phub.errors import ProtocolViolation
from p2phub.proto.limits import SPAN_BYTES_MAX
from p2phub.proto.messages import REJECT_BUSY, REJECT_CHOKED, REJECT_TOO_LARGE, Run

SLOTS_DEFAULT = 32  # lanes each way
TURN_S = 2.0  # that a slot lasts while others wait
OPTIMISTIC_SHARE = 0.25  # of the slots: by chance, so that newcomers have something to give
LOOK_S = 0.02  # between two looks at the slots
IDLE_S = 0.25  # without a request, or twice the time a peer takes: then its slot may go on
PATIENCE_S_MAX = 2.0  # with a peer that is far away
LATE_S = 10.0  # after its slot went on: what comes later is not an answer to it
IDLE_S_MAX = 60.0  # that a peer which used no slot waits for another; doubles up to here
LEDGER_WINDOW_S = 20.0  # what reciprocity and fairness remember
LEDGER_WINDOWS_MAX = 32.0  # until its numbers are made small again: e^32 times a byte
# Twice what our greeting says: who has the last chunk of one may ask for the next before the lane's
# word that it was sent has reached us.
REQUESTS_PER_PEER_MAX = 128
REQUESTS_MAX = 4096  # of all peers: 1 MiB of runs


class _Peer:
    __slots__ = (
        "chance", "choked_at", "claim", "eligible_at", "idle_since", "is_local", "is_unchoked",
        "is_used", "line", "patience_s", "peer", "requests", "slot_since", "unused_count",
    )  # fmt: skip

    def __init__(self, peer: Peer, chance: float, now: float, is_local: bool) -> None:
        self.peer = peer
        self.chance = chance  # decides between equal claims
        self.is_local = is_local
        self.is_unchoked = False
        self.is_used = False  # something was requested in this slot
        self.slot_since = now
        self.idle_since = now  # nothing was requested since; of no meaning while something is
        self.patience_s = IDLE_S
        self.choked_at = now
        self.eligible_at = now  # for the next slot
        self.unused_count = 0  # slots in a row in which it requested nothing
        self.line = Line(peer)
        self.requests = self.line.requests  # by id, oldest first
        # Who comes first: the smallest claim is the best. Its first part is what was sent to the
        # peer less what it sent us, in bytes as `Uploads._weight` counts them.
        self.claim = (0.0, not is_local, chance)

    def count(self, weighted_bytes: float) -> None:
        balance, is_far, chance = self.claim
        self.claim = (balance + weighted_bytes, is_far, chance)

    @property
    def idle_at(self) -> float:
        """When its slot, if it has one, may go to another because it isn't used."""
        return float("inf") if self.requests else self.idle_since + self.patience_s

    def may_end(self, now: float) -> bool:
        """Whether its slot was not used, or had for a turn."""
        if self.slot_since + TURN_S <= now:
            return True
        return not self.requests and self.idle_since + self.patience_s <= now


class Uploads:
    """All sessions that others opened to this node, over all releases."""

    def __init__(self, rng: random.Random, slots_count: int = SLOTS_DEFAULT) -> None:
        self._rng = rng
        self._slots_count = slots_count
        self._peers: dict[Peer, _Peer] = {}
        self._served: dict[Peer, _Peer] = {}  # those that have a slot
        self._request_count = 0
        self._actions: list[UploadAction] = []
        self._wire = Wire()
        self._next_turn: float | None = None  # None: everybody has a slot
        self._parallel = Parallel(slots_count)
        self._gained_at = float("-inf")  # something that peers may want of us since
        self._withheld: frozenset[Peer] = frozenset()
        self._ledger_since = 0.0  # when a byte counted as one in the ledger of claims

    # ---- peers ---------------------------------------------------------------------------------

    def on_peer(self, peer: Peer, now: float, *, is_local: bool = False) -> None:
        """A peer opened a session.

        It is choked until an action unchokes it: at once if a slot is free.
        """
        if peer in self._peers:
            return
        self._peers[peer] = _Peer(peer, self._rng.random(), now, is_local)
        self._next_turn = now

    def on_peer_gone(self, peer: Peer, now: float) -> None:
        """The session ended; its requests with it."""
        gone = self._peers.pop(peer, None)
        if gone is None:
            return
        self._count(-len(gone.requests), now)
        self._wire.on_gone(gone.line)
        self._served.pop(peer, None)
        self._next_turn = now

    def on_sent(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Payload went out to a peer."""
        self._parallel.on_sent(size_bytes, now)
        self._wire.on_sent(size_bytes, now)
        if peer in self._peers:
            self._peers[peer].count(size_bytes * self._weight(now))

    def on_received(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Verified payload came in from a peer: what reciprocity counts."""
        self._gained_at = now
        if peer in self._peers:
            self._peers[peer].count(-size_bytes * self._weight(now))

    def _weight(self, now: float) -> float:
        """What a byte counts that is sent now.

        What was sent long ago shall count less; since that fades alike for all, later bytes count
        more instead, and claims are comparable at any time.
        """
        age = (now - self._ledger_since) / LEDGER_WINDOW_S
        if age > LEDGER_WINDOWS_MAX:
            fade = math.exp(-age)
            for state in self._peers.values():
                state.count((fade - 1.0) * state.claim[0])
            self._ledger_since, age = now, 0.0
        return math.exp(age)

    def withhold(self, peers: frozenset[Peer], now: float) -> None:
        """These peers, and no others, shall have no slot until said otherwise."""
        if peers == self._withheld:
            return
        self._withheld = peers
        for state in self._peers.values():
            if state.is_unchoked and state.peer in peers:
                self._choke(state, now)
        self._next_turn = now

    def set_slots_count(self, slots_count: int, now: float) -> None:
        """How many peers may be served at once, from the next decision on."""
        self._slots_count = max(1, slots_count)
        self._parallel.limit = self._slots_count
        self._next_turn = now

    # ---- requests ------------------------------------------------------------------------------

    def on_request(
        self, peer: Peer, request_id: int, runs: tuple[Run, ...], size_bytes: int, now: float
    ) -> None:
        """A peer requests a span of `size_bytes` that this node holds (reject what it doesn't hold
        before).

        Raises ProtocolViolation if an id is used for two requests at a time.
        """
        state = self._peers.get(peer)
        if state is None:
            return
        if request_id in state.requests:
            raise ProtocolViolation("a peer used one id for two requests", request_id=request_id)
        self._judge_answer(state, now)
        state.is_used = True
        code = self._refusal(state, size_bytes)
        if code is not None:
            self._actions.append(SendReject(peer, request_id, code))
            return
        self._wire.on_request(state.line, Request(request_id, runs, size_bytes), now)
        state.unused_count = 0
        self._parallel.on_request(size_bytes)
        self._count(1, now)

    def _judge_answer(self, state: _Peer, now: float) -> None:
        """Learn how long a peer takes to use a slot."""
        if state.is_used:
            return
        answered_s = now - state.slot_since
        if state.is_unchoked:
            if answered_s < PATIENCE_S_MAX:
                state.patience_s = max(IDLE_S, 2.0 * answered_s)
        elif now < state.choked_at + LATE_S:
            # It wanted its slot, and was slow: no reason to let it wait ever longer.
            state.patience_s = min(2.0 * answered_s, PATIENCE_S_MAX)
            state.unused_count = 0
            state.eligible_at = min(state.eligible_at, state.choked_at + IDLE_S)
            self._next_turn = now

    def _count(self, change: int, now: float) -> None:
        self._request_count += change
        self._parallel.on_queue(self._request_count, now)

    def on_preparing(self, peer: Peer, now: float) -> None:
        """The peer opens what its first request will be met by: its slot is idle from now on."""
        state = self._peers.get(peer)
        if state and not state.is_used and now < state.slot_since + PATIENCE_S_MAX:
            state.idle_since = now

    def has_slot(self, peer: Peer) -> bool:
        state = self._peers.get(peer)
        return state is not None and state.is_unchoked

    def _refusal(self, state: _Peer, size_bytes: int) -> int | None:
        if not state.is_unchoked:
            return REJECT_CHOKED
        if size_bytes > SPAN_BYTES_MAX:
            return REJECT_TOO_LARGE
        is_full = (
            len(state.requests) >= REQUESTS_PER_PEER_MAX or self._request_count >= REQUESTS_MAX
        )
        return REJECT_BUSY if is_full else None

    def on_cancel(self, peer: Peer, request_id: int, now: float) -> None:
        """The peer doesn't want a request any more; one that is done already is no error."""
        request = self._close(peer, request_id, now)
        if request is not None and request.is_started:
            self._actions.append(StopUpload(peer, request_id))

    def on_upload_done(self, peer: Peer, request_id: int, now: float) -> None:
        """All chunks of a started request were handed to the channel, or it stopped at one that is
        not held.
        """
        self._close(peer, request_id, now)

    def _close(self, peer: Peer, request_id: int, now: float) -> Request | None:
        state = self._peers.get(peer)
        request = None if state is None else state.requests.get(request_id)
        if state is None or request is None:
            return None
        self._count(-1, now)
        self._wire.on_closed(state.line, request, now)
        state.idle_since = now
        if not state.requests and self._next_turn is not None:
            self._next_turn = min(self._next_turn, state.idle_at)
        return request

    # ---- what to do ----------------------------------------------------------------------------

    def next_actions(self, now: float) -> list[UploadAction]:
        """What to do now, in order. Call after events and when `next_deadline` has passed."""
        if self._next_turn is not None and now >= self._next_turn:
            self._take_turns(now)
        for peer, request in self._wire.next_starts(now):
            self._actions.append(StartUpload(peer, request.id, request.runs))
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """When to ask `next_actions` even if nothing happens; None: no need."""
        if self._actions:
            return float("-inf")
        times = (self._next_turn, self._wire.next_deadline())
        return min((time for time in times if time is not None), default=None)

    @property
    def slots_count(self) -> int:
        return self._slots_count

    @property
    def served_max(self) -> int:
        """How many peers are served at once, now."""
        return self._parallel.count

    @property
    def unchoked(self) -> tuple[Peer, ...]:
        """Who has a slot now, in the order of joining."""
        return tuple(state.peer for state in self._peers.values() if state.is_unchoked)

    def requested(self, peer: Peer) -> list[Run]:
        """What a peer waits for, oldest request first."""
        state = self._peers.get(peer)
        return [] if state is None else [run for one in state.requests.values() for run in one.runs]

    @property
    def requests_count(self) -> int:
        """Requests queued and under way, of all peers."""
        return self._request_count

    # ---- slots ---------------------------------------------------------------------------------

    def _take_turns(self, now: float) -> None:
        """End slots that were not used or were had for long enough while others wait; give away
        those that are free.
        """
        served = list(self._served.values())
        count = self._parallel.count
        if len(served) < count or any(state.may_end(now) for state in served):
            waiting = self._eligible(now)
            if len(waiting) > count - len(served):
                self._parallel.adapt(now)
                waiting.sort(key=attrgetter("claim"))
                if self._rng.random() < OPTIMISTIC_SHARE:
                    waiting.insert(0, waiting.pop(self._rng.randrange(len(waiting))))
                self._end_turns(served, waiting, now)
            for state in waiting[: max(0, self._parallel.count - len(self._served))]:
                self._unchoke(state, now)
        self._plan_turn(now)

    def _eligible(self, now: float) -> list[_Peer]:
        """Who may get a slot now, in the order of joining."""
        gained_at = self._gained_at
        return [
            state
            for state in self._peers.values()
            if not state.is_unchoked
            and (
                state.eligible_at <= now
                or (state.choked_at < gained_at and state.choked_at + IDLE_S <= now)
            )
            and state.peer not in self._withheld
        ]

    def _end_turns(self, served: list[_Peer], waiting: list[_Peer], now: float) -> None:
        """Take slots from those who don't use them, or had them for a while and have no better
        claim than who waits.
        """
        free = self._parallel.count - len(served)
        for state in served:
            if len(waiting) <= free:
                break
            if not state.may_end(now):
                continue
            is_busy = state.is_used and now < state.idle_at
            if is_busy and free >= 0 and state.claim <= waiting[free].claim:
                state.slot_since = now
            else:
                self._choke(state, now)
                free += 1

    def _plan_turn(self, now: float) -> None:
        """When slots must be looked at again."""
        soonest = float("-inf")
        if len(self._served) >= self._parallel.count:
            soonest = min(min(s.slot_since + TURN_S, s.idle_at) for s in self._served.values())
        if soonest <= now or len(self._served) == len(self._peers):
            # No slot is waited for, or the next is for the first who may get one.
            waiting = [
                self._eligible_at(state)
                for peer, state in self._peers.items()
                if not state.is_unchoked and peer not in self._withheld
            ]
            soonest = min(waiting, default=float("inf"))
        self._next_turn = max(soonest, now + LOOK_S) if soonest < float("inf") else None

    def _eligible_at(self, state: _Peer) -> float:
        """Who did not use its last slot waits longer for the next, unless we gained something that
        it may want.
        """
        if self._gained_at > state.choked_at:
            return min(state.eligible_at, state.choked_at + IDLE_S)
        return state.eligible_at

    def _unchoke(self, state: _Peer, now: float) -> None:
        state.is_unchoked = True
        self._served[state.peer] = state
        state.is_used = False
        state.idle_since = state.slot_since = now
        self._actions.append(SendUnchoke(state.peer))

    def _choke(self, state: _Peer, now: float) -> None:
        state.is_unchoked = False
        del self._served[state.peer]
        state.choked_at = state.eligible_at = now
        if not state.is_used:
            state.eligible_at += min(IDLE_S * (1 << min(state.unused_count, 16)), IDLE_S_MAX)
            state.unused_count += 1
        self._actions.append(SendChoke(state.peer))
        for request in [request for request in state.requests.values() if not request.is_started]:
            self._close(state.peer, request.id, now)
            self._actions.append(SendReject(state.peer, request.id, REJECT_CHOKED))
