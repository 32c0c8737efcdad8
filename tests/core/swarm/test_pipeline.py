"""What one peer's state says of it, and all peers' together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.swarm.availability import Holdings
from p2phub.core.swarm.pipeline import PeerState, are_held_freely


@given(
    spans=st.integers(0, 255),
    peers=st.lists(st.tuples(st.integers(0, 255), st.sampled_from([0, 4]), st.booleans())),
)
def test_spans_are_held_freely_if_those_who_offer_nothing_and_do_not_choke_hold_them(
    spans: int, peers: list[tuple[int, int, bool]]
) -> None:
    states = {}
    for number, (whole, offered, is_choked) in enumerate(peers):
        state = PeerState(f"peer-{number}", number, Holdings(), 0.0)
        state.holdings.whole, state.offered, state.is_choked = whole, offered, is_choked
        states[state.peer] = state
    free = [whole for whole, offered, is_choked in peers if not offered and not is_choked]
    wanted = [span for span in range(8) if spans >> span & 1]
    expected = all(any(whole >> span & 1 for whole in free) for span in wanted)
    assert are_held_freely(spans, states) == expected
