"""A peer's link: an uplink shared in turns by those it serves, a downlink that takes what comes, a
delay between.

The model is store-and-forward per chunk: a chunk occupies the sender's uplink, travels, then
occupies the receiver's downlink. Who is served in which turn is the wire's doing (lanes share a
link evenly), not a rule of ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from simulations.engine import Engine


@dataclass(slots=True)
class Parcel:
    """Some bytes of one upload."""

    receiver: Link
    size_bytes: int
    arrive: Callable[[], None]  # called when all of it is at the other end
    sent: Callable[[], None]  # called when it has left the uplink


@dataclass(slots=True)
class _Lane:
    parcels: deque[Parcel] = field(default_factory=deque)


class Link:
    """The link of one peer. Lanes are keyed by the text of the peer they lead to."""

    def __init__(
        self,
        engine: Engine,
        up_bytes_per_s: float,
        down_bytes_per_s: float,
        delay_s: float = 0.025,
    ) -> None:
        self._engine = engine
        self.delay_s = delay_s  # one way, to this peer
        self.up_bytes_per_s = up_bytes_per_s
        self.down_bytes_per_s = down_bytes_per_s
        self.sent_bytes = 0
        self.received_bytes = 0
        self._lanes: dict[str, _Lane] = {}  # those with something to send, in turn
        self._sending: str | None = None  # the lane whose parcel is on its way out
        self._down_free_at = 0.0

    def send(self, lane: str, parcel: Parcel) -> None:
        """Queue a parcel on a lane; parcels of one lane stay in order."""
        self._lanes.setdefault(lane, _Lane()).parcels.append(parcel)
        if self._sending is None:
            self._send_next()

    def is_queued(self, lane: str) -> bool:
        """Whether a parcel of a lane waits or is on its way out."""
        return lane in self._lanes or lane == self._sending

    def _send_next(self) -> None:
        name = self._sending = next(iter(self._lanes), None)
        if name is None:
            return
        lane = self._lanes.pop(name)
        parcel = lane.parcels.popleft()
        if lane.parcels:
            self._lanes[name] = lane  # behind the others
        self._engine.after(parcel.size_bytes / self.up_bytes_per_s, self._on_sent, parcel)

    def _on_sent(self, parcel: Parcel) -> None:
        self.sent_bytes += parcel.size_bytes
        self._engine.after(parcel.receiver.delay_s, parcel.receiver._on_arriving, parcel)
        parcel.sent()  # first, so that the same lane's next parcel is there when turns are taken
        self._send_next()

    def _on_arriving(self, parcel: Parcel) -> None:
        # While it was on the uplink it was on the downlink too, if that was free: only the excess
        # waits.
        start = max(
            self._engine.now - parcel.size_bytes / self.down_bytes_per_s, self._down_free_at
        )
        self._down_free_at = start + parcel.size_bytes / self.down_bytes_per_s
        if self._down_free_at > self._engine.now:
            self._engine.at(self._down_free_at, self._on_arrived, parcel)
        else:
            self._on_arrived(parcel)

    def _on_arrived(self, parcel: Parcel) -> None:
        self.received_bytes += parcel.size_bytes
        parcel.arrive()
