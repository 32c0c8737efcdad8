"""Which pages each peer is asked about: all that are incomplete here, so many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from p2phub.core.swarm.actions import AskPages, Peer
from p2phub.core.swarm.pipeline import PeerState
from p2phub.core.swarm.spans import Page
from p2phub.digest import Digest
from p2phub.proto.limits import PAGES_PER_ASK_MAX

PAGES_WATCHED_MAX = 1024  # per peer: 1 MiB of have-bits; the next are asked about as pages complete


class Asking:
    """Remembers whom there may be something to ask."""

    def __init__(self) -> None:
        self._peers: dict[Peer, None] = {}

    def on_pages(self, peers: Iterable[Peer]) -> None:
        """These peers may be asked about more pages than before."""
        self._peers.update(dict.fromkeys(peers))

    def next_actions(self, peers: Mapping[Peer, PeerState], pages: list[Page]) -> list[AskPages]:
        """The questions to send now; each page is asked of a peer once."""
        actions = []
        for peer in self._peers:
            state = peers.get(peer)
            if state is None:
                continue
            asked = _next_pages(state, pages)
            for start in range(0, len(asked), PAGES_PER_ASK_MAX):
                part = tuple(asked[start : start + PAGES_PER_ASK_MAX])
                actions.append(AskPages(peer, part))
        self._peers.clear()
        return actions


def _next_pages(state: PeerState, pages: list[Page]) -> list[Digest]:
    asked: list[Digest] = []
    for number, page in enumerate(pages):
        if number in state.asked:
            continue
        if page.missing:
            if len(state.holdings.pages) >= PAGES_WATCHED_MAX:
                break
            asked.append(page.digest)
            state.holdings.pages[number] = 0
        state.asked.add(number)
    return asked
