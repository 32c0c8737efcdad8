"""What must hold at every step of every simulated peer.

A broken rule ends the simulation with the rule's name.
"""

from __future__ import annotations

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
        self._seen_requests: dict[str, set[tuple[str, int]]] = {}

    def check(self, peer: SimulatedPeer) -> None:
        """All rules, after one step of a peer."""
        self.steps_count += 1
        self._progress_is_true_and_only_grows(peer)
        self._queues_keep_their_bounds(peer)
        self._spans_are_asked_twice_in_the_endgame_only(peer)

    def _progress_is_true_and_only_grows(self, peer: SimulatedPeer) -> None:
        if peer.is_seed:
            return
        verified_bytes = peer.download.verified_bytes
        assert verified_bytes == peer.held_bytes, f"{peer.name} counts bytes that were not verified"
        assert verified_bytes >= self._verified_bytes.get(peer.name, 0), (
            f"{peer.name} lost progress"
        )
        self._verified_bytes[peer.name] = verified_bytes

    def _queues_keep_their_bounds(self, peer: SimulatedPeer) -> None:
        counts: dict[str, int] = {}
        for name, _ in peer.requests:
            counts[name] = counts.get(name, 0) + 1
        assert max(counts.values(), default=0) <= REQUESTS_PER_PEER_MAX, (
            f"{peer.name} asks too much"
        )
        assert peer.uploads.requests_count <= UPLOAD_REQUESTS_MAX, f"{peer.name} queues too much"
        unchoked = len(peer.uploads.unchoked)
        assert unchoked <= peer.uploads.slots_count, f"{peer.name} gives too many slots"

    def _spans_are_asked_twice_in_the_endgame_only(self, peer: SimulatedPeer) -> None:
        seen = self._seen_requests.get(peer.name, set())
        new = peer.requests.keys() - seen
        if not new:
            return
        self._seen_requests[peer.name] = set(peer.requests)
        asked: dict[tuple[Digest, int], int] = {}
        twice = False
        for span in peer.requests.values():
            for run in span.runs:
                place = (run.page, run.start)
                asked[place] = asked.get(place, 0) + 1
                assert asked[place] <= 2, f"{peer.name} asks three peers for one chunk"
                twice = twice or asked[place] == 2
        if twice and any(peer.requests[key].runs for key in new):
            old = {
                (run.page, run.start)
                for key in seen & peer.requests.keys()
                for run in peer.requests[key].runs
            }
            fresh = {(run.page, run.start) for key in new for run in peer.requests[key].runs}
            assert not old & fresh or peer.download.is_endgame, (
                f"{peer.name} asks twice before the endgame"
            )

    def check_end(self, peer: SimulatedPeer) -> None:
        """When a peer is done: nothing was lost, and little was paid twice."""
        statistics = peer.download.statistics(peer.engine.now)
        assert statistics.is_complete and peer.held_bytes == peer.content.size_bytes
        assert statistics.spans_open_count == statistics.requests_count == 0
