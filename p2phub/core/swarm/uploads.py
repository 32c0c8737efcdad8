"""Upload slots: who may request, whose request is sent next. A machine over `now`.

A slot that nobody uses goes to somebody who waits; who doesn't use one waits longer for the next.
Slots go to those who gave us most in the last seconds; to one more at random, who may prove better
(the optimistic slot); and what is left to those who got least: a seed, to whom nobody gives, thus
serves everybody in turn. With more slots than peers everybody has one. Requests are few per peer
and few in all; each peer's are served in order, several started ahead of the wire.
Source: BitTorrent (Cohen 2003): reciprocity and the optimistic unchoke.
"""

from __future__ import annotations

import random

from p2phub.core.swarm.actions import (
    Peer,
    SendChoke,
    SendReject,
    SendUnchoke,
    StartUpload,
    StopUpload,
    UploadAction,
)
from p2phub.core.swarm.rates import RateMeter
from p2phub.errors import ProtocolViolation
from p2phub.proto.limits import MIB, SPAN_BYTES_MAX
from p2phub.proto.messages import REJECT_BUSY, REJECT_CHOKED, REJECT_TOO_LARGE, Run

SLOTS_DEFAULT = 32  # lanes each way
ROUND_S = 10.0  # between two decisions: long enough for a peer's rate to show
IDLE_S = 1.0  # without a request: then somebody else may have the slot
IDLE_S_MAX = 60.0  # how long at most a peer that used no slot waits for another; doubles up to here
OPTIMISTIC_ROUNDS = 3  # that the optimistic slot stays with one peer
RECEIVED_WINDOW_S = 20.0  # what reciprocity remembers
SENT_WINDOW_S = 60.0  # what fairness remembers: several turns of everybody
REQUESTS_PER_PEER_MAX = 64  # as our greeting says
REQUESTS_MAX = 4096  # of all peers: 1 MiB of runs
STARTED_MIN = 2  # per peer: one is sent while the next is opened
STARTED_BYTES = 16 * MIB  # per peer: 15 ms at 1 GB/s, so that a lane never waits for this machine


class _Request:
    __slots__ = ("id", "is_started", "runs", "size_bytes")

    def __init__(self, id: int, runs: tuple[Run, ...], size_bytes: int) -> None:
        self.id = id
        self.runs = runs
        self.size_bytes = size_bytes
        self.is_started = False


class _Peer:
    __slots__ = (
        "eligible_at", "idle_since", "is_local", "is_unchoked", "order", "peer", "received",
        "requests", "sent", "started_bytes", "started_count", "unused_count",
    )  # fmt: skip

    def __init__(self, peer: Peer, order: int, now: float, is_local: bool) -> None:
        self.peer = peer
        self.order = order
        self.is_local = is_local
        self.is_unchoked = False
        self.idle_since = now  # nothing was requested since; of no meaning while something is
        self.eligible_at = now  # for a slot that somebody else doesn't use
        self.unused_count = 0  # slots in a row in which it requested nothing
        self.requests: dict[int, _Request] = {}  # by id, oldest first
        self.started_count = 0
        self.started_bytes = 0
        self.received = RateMeter(now, RECEIVED_WINDOW_S)
        self.sent = RateMeter(now, SENT_WINDOW_S)


class Uploads:
    """All sessions that others opened to this node, over all releases."""

    def __init__(self, rng: random.Random, slots_count: int = SLOTS_DEFAULT) -> None:
        self._rng = rng
        self._slots_count = slots_count
        self._peers: dict[Peer, _Peer] = {}
        self._joined_count = 0
        self._request_count = 0
        self._actions: list[UploadAction] = []
        self._ready: dict[Peer, None] = {}  # peers that may have a request to start
        self._next_round: float | None = None  # None: everybody has a slot
        self._next_idle: float | None = None  # when a slot may have been idle for too long
        self._round_count = 0
        self._optimistic: Peer | None = None
        self._withheld: frozenset[Peer] = frozenset()

    # ---- peers ---------------------------------------------------------------------------------

    def on_peer(self, peer: Peer, now: float, *, is_local: bool = False) -> None:
        """A peer opened a session.

        It is choked until an action unchokes it: at once if a slot is free.
        """
        if peer in self._peers:
            return
        self._peers[peer] = _Peer(peer, self._joined_count, now, is_local)
        self._joined_count += 1
        self._give_free_slots(now)

    def on_peer_gone(self, peer: Peer, now: float) -> None:
        """The session ended; its requests with it."""
        gone = self._peers.pop(peer, None)
        if gone is None:
            return
        self._request_count -= len(gone.requests)
        self._ready.pop(peer, None)
        if self._optimistic == peer:
            self._optimistic = None
        self._give_free_slots(now)

    def on_sent(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Payload went out to a peer."""
        if peer in self._peers:
            self._peers[peer].sent.add(size_bytes, now)

    def on_received(self, peer: Peer, size_bytes: int, now: float) -> None:
        """Verified payload came in from a peer: what reciprocity counts."""
        if peer in self._peers:
            self._peers[peer].received.add(size_bytes, now)

    def withhold(self, peers: frozenset[Peer], now: float) -> None:
        """These peers, and no others, shall have no slot until said otherwise."""
        if peers == self._withheld:
            return
        self._withheld = peers
        for state in self._peers.values():
            if state.is_unchoked and state.peer in peers:
                self._choke(state, now)
        self._give_free_slots(now)

    def set_slots_count(self, slots_count: int, now: float) -> None:
        """How many peers may be served at once, from the next decision on."""
        self._slots_count = max(1, slots_count)
        self._next_round = now

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
        code = self._refusal(state, size_bytes)
        if code is not None:
            self._actions.append(SendReject(peer, request_id, code))
            return
        state.requests[request_id] = _Request(request_id, runs, size_bytes)
        state.unused_count = 0
        self._request_count += 1
        self._ready[peer] = None

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

    def _close(self, peer: Peer, request_id: int, now: float) -> _Request | None:
        state = self._peers.get(peer)
        request = None if state is None else state.requests.pop(request_id, None)
        if state is None or request is None:
            return None
        self._request_count -= 1
        state.idle_since = now
        if request.is_started:
            state.started_count -= 1
            state.started_bytes -= request.size_bytes
        self._ready[peer] = None
        return request

    # ---- what to do ----------------------------------------------------------------------------

    def next_actions(self, now: float) -> list[UploadAction]:
        """What to do now, in order. Call after events and when `next_deadline` has passed."""
        if self._next_round is not None and now >= self._next_round:
            self._decide(now)
        elif self._next_idle is not None and now >= self._next_idle:
            self._pass_on_idle_slots(now)
        for peer in self._ready:
            self._start(self._peers[peer])
        self._ready.clear()
        actions, self._actions = self._actions, []
        return actions

    def next_deadline(self) -> float | None:
        """When slots are decided anew; None: everybody has one."""
        if self._next_round is None or self._next_idle is None:
            return self._next_round
        return min(self._next_round, self._next_idle)

    @property
    def slots_count(self) -> int:
        return self._slots_count

    @property
    def unchoked(self) -> tuple[Peer, ...]:
        """Who has a slot now, in the order of joining."""
        return tuple(state.peer for state in self._peers.values() if state.is_unchoked)

    @property
    def requests_count(self) -> int:
        """Requests queued and under way, of all peers."""
        return self._request_count

    def _start(self, state: _Peer) -> None:
        for request in state.requests.values():
            if request.is_started:
                continue
            if state.started_count >= STARTED_MIN and state.started_bytes >= STARTED_BYTES:
                break
            request.is_started = True
            state.started_count += 1
            state.started_bytes += request.size_bytes
            self._actions.append(StartUpload(state.peer, request.id, request.runs))

    # ---- slots ---------------------------------------------------------------------------------

    def _give_free_slots(self, now: float) -> None:
        """Unchoke who waits while slots are free; decide in rounds as soon as they are not."""
        free = self._slots_count - sum(state.is_unchoked for state in self._peers.values())
        waiting = self._waiting()
        waiting.sort(key=lambda state: _fairness(state, now))
        for state in waiting[: max(0, free)]:
            self._unchoke(state, now)
        if len(self._peers) <= self._slots_count:
            self._next_round = self._next_idle = None
        elif self._next_round is None:
            self._next_round = now + ROUND_S
            self._next_idle = now + IDLE_S

    def _eligible(self) -> list[_Peer]:
        return [state for state in self._peers.values() if state.peer not in self._withheld]

    def _waiting(self) -> list[_Peer]:
        """Who has no slot and may have one."""
        return [state for state in self._eligible() if not state.is_unchoked]

    def _decide(self, now: float) -> None:
        """One round: who keeps a slot, who gets one."""
        if len(self._peers) <= self._slots_count:
            chosen = {state.peer: None for state in self._eligible()}
            self._next_round = self._next_idle = None
        else:
            chosen = self._choose(now)
            self._next_round = now + ROUND_S
        self._round_count += 1
        for state in self._peers.values():
            if state.is_unchoked and state.peer not in chosen:
                self._choke(state, now)
        for state in self._peers.values():
            if not state.is_unchoked and state.peer in chosen:
                self._unchoke(state, now)

    def _pass_on_idle_slots(self, now: float) -> None:
        """Give slots that were not used for IDLE_S to peers that wait."""
        waiting = self._waiting()
        eligible = [state for state in waiting if state.eligible_at <= now]
        eligible.sort(key=lambda state: _fairness(state, now))
        idle = [state for state in self._peers.values() if state.is_unchoked and not state.requests]
        for state in idle:
            if not eligible:
                break
            if state.idle_since + IDLE_S <= now:
                wait_s = min(IDLE_S * (1 << min(state.unused_count, 16)), IDLE_S_MAX)
                state.unused_count += 1
                state.eligible_at = now + wait_s
                self._choke(state, now)
                self._unchoke(eligible.pop(0), now)
        # Looked at again when the next idle slot is due and somebody may have it.
        self._next_idle = now + IDLE_S / 4
        if not eligible:
            soonest = min((state.eligible_at for state in waiting), default=now)
            self._next_idle = max(self._next_idle, soonest)

    def _choose(self, now: float) -> dict[Peer, None]:
        """The peers of the next round: givers first, then who got least, and one by chance."""
        earned_count = self._slots_count - 1 if self._slots_count > 1 else 1
        eligible = self._eligible()
        givers = [state for state in eligible if state.received.rate(now) >= 1.0]
        givers.sort(key=lambda state: (-state.received.rate(now), state.order))
        chosen = {state.peer: None for state in givers[:earned_count]}
        others = [state for state in eligible if state.peer not in chosen]
        others.sort(key=lambda state: _fairness(state, now))
        chosen.update((state.peer, None) for state in others[: earned_count - len(chosen)])
        if self._slots_count > 1:
            is_over = self._round_count % OPTIMISTIC_ROUNDS == 0
            if is_over or self._optimistic is None or self._optimistic in chosen:
                rest = [state.peer for state in eligible if state.peer not in chosen]
                self._optimistic = self._rng.choice(rest) if rest else None
            if self._optimistic is not None and self._optimistic not in self._withheld:
                chosen[self._optimistic] = None
        return chosen

    def _unchoke(self, state: _Peer, now: float) -> None:
        state.is_unchoked = True
        state.idle_since = now
        self._actions.append(SendUnchoke(state.peer))

    def _choke(self, state: _Peer, now: float) -> None:
        state.is_unchoked = False
        self._actions.append(SendChoke(state.peer))
        for request in [request for request in state.requests.values() if not request.is_started]:
            self._close(state.peer, request.id, now)


def _fairness(state: _Peer, now: float) -> tuple[float, bool, int]:
    """Who got least comes first; of those alike the local ones, then who waits longest."""
    return state.sent.rate(now), not state.is_local, state.order
