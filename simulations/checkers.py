"""What must hold at every step of every simulated peer.

A broken rule ends the simulation with the rule's name.
"""

from __future__ import annotations

from p2phub.core.swarm import bitsets
from p2phub.core.swarm.pipeline import REQUESTS_MAX as REQUESTS_PER_PEER_MAX
from p2phub.core.swarm.uploads import REQUESTS_MAX as UPLOAD_REQUESTS_MAX
from p2phub.digest import Digest
from simulations.peer import SimulatedPeer

DUPLICATES_MAX = 0.02  # of a download's bytes: what endgame and hedging may cost


class Checkers:
    """Looks on; remembers only what it needs to compare."""

    def __init__(self) -> None:
        self.steps_count = 0
        self._verified_bytes: dict[str, int] = {}
        self._complete: dict[str, int] = {}  # sets of spans, by peer

    def check_download(self, peer: SimulatedPeer) -> None:
        """After one step of a peer's download."""
        self.steps_count += 1
        self._progress_is_true_and_only_grows(peer)
        self._no_span_is_lost(peer)
        if peer.asked_now:
            self._nobody_is_asked_too_much(peer)
            self._spans_are_asked_twice_in_the_endgame_only(peer)

    def check_uploads(self, peer: SimulatedPeer) -> None:
        """After one step of a peer's uploads."""
        self.steps_count += 1
        assert peer.uploads.requests_count <= UPLOAD_REQUESTS_MAX, f"{peer.name} queues too much"
        assert len(peer.served) <= peer.uploads.slots_count, f"{peer.name} gives too many slots"

    def _progress_is_true_and_only_grows(self, peer: SimulatedPeer) -> None:
        verified_bytes = peer.download.verified_bytes
        assert verified_bytes == peer.held_bytes, f"{peer.name} counts bytes that were not verified"
        assert verified_bytes >= self._verified_bytes.get(peer.name, 0), (
            f"{peer.name} lost progress"
        )
        self._verified_bytes[peer.name] = verified_bytes

    def _nobody_is_asked_too_much(self, peer: SimulatedPeer) -> None:
        if len(peer.requests) <= REQUESTS_PER_PEER_MAX:
            return
        names = [name for name, _ in peer.requests]
        for name in {name for name, _ in peer.asked_now}:
            assert names.count(name) <= REQUESTS_PER_PEER_MAX, f"{peer.name} asks too much"

    def _spans_are_asked_twice_in_the_endgame_only(self, peer: SimulatedPeer) -> None:
        places = [(run.page, run.start) for span in peer.requests.values() for run in span.runs]
        if len(set(places)) == len(places):
            return
        fresh = set(peer.asked_now)
        asked: dict[tuple[Digest, int], int] = {}  # place -> how often
        begun_before: set[tuple[Digest, int]] = set()
        for key, span in peer.requests.items():
            for run in span.runs:
                place = (run.page, run.start)
                asked[place] = asked.get(place, 0) + 1
                assert asked[place] <= 2, f"{peer.name} asks three peers for one chunk"
                if key not in fresh:
                    begun_before.add(place)
        for key in fresh & peer.requests.keys():
            for run in peer.requests[key].runs:
                is_twice = (run.page, run.start) in begun_before
                assert not is_twice or peer.download.is_endgame, (
                    f"{peer.name} asks twice before the endgame"
                )

    def _no_span_is_lost(self, peer: SimulatedPeer) -> None:
        """Each span is complete, or open, or in flight; and only one of these."""
        planner, open_spans = peer.download._planner, peer.download._picker.open
        in_flight = 0
        for span in peer.requests.values():
            in_flight |= 1 << span.index
        assert not open_spans & in_flight, f"{peer.name} would ask again for what it asked for"
        complete = self._complete.get(peer.name, 0)
        missing = open_spans | in_flight
        assert not missing & complete, f"{peer.name} fetches again what it has"
        others = bitsets.interval(0, len(planner)) ^ missing ^ complete
        if others:
            self._complete[peer.name] = complete | others
        while others:
            index = bitsets.lowest(others)
            assert planner.is_span_complete(index), f"{peer.name} lost span {index}"
            others ^= 1 << index

    def check_end(self, peer: SimulatedPeer) -> None:
        """When a peer is done: nothing was lost, and little was paid twice."""
        statistics = peer.download.statistics(peer.engine.now)
        assert statistics.is_complete and peer.held_bytes == peer.content.size_bytes
        assert statistics.spans_open_count == statistics.requests_count == 0
