"""What goes to and from peers: the downloads that run now, and how much each peer gave and got."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from p2phub.net.base import Network, PeerId
from p2phub.node.documents import Documents, DocumentServer
from p2phub.node.downloads import Transfer
from p2phub.node.figures import PeerView
from p2phub.node.figures import Transfer as TransferView
from p2phub.node.peer_bytes import PeerBytes
from p2phub.node.progress import Progress
from p2phub.node.resolving import Resolved
from p2phub.node.serving import Serving
from p2phub.proto.content_id import content_id_text


class Traffic:
    """The traffic of one node. on_notice: told of each peer that was dropped."""

    def __init__(
        self,
        network: Network,
        documents: Documents,
        document_server: DocumentServer,
        serving: Serving,
        on_notice: Callable[[str, str], None],
    ) -> None:
        self._network = network
        self._documents = documents
        self._document_server = document_server
        self._serving = serving
        self._on_notice = on_notice
        self._running: dict[Transfer, tuple[Resolved, int]] = {}  # and the bytes of all its files
        self._received = PeerBytes()  # by downloads that are over

    @property
    def transfers_count(self) -> int:
        return len(self._running)

    @contextmanager
    def during(self, transfer: Transfer, resolved: Resolved, total_bytes: int) -> Iterator[None]:
        """While the block runs, this download is one that runs. total_bytes: of all its files."""
        self._running[transfer] = (resolved, total_bytes)
        transfer.on_received = self._serving.on_received
        try:
            yield
        finally:
            del self._running[transfer]
            for share in transfer.shares.values():
                if share.received_bytes:
                    self._received.add(share.peer, share.received_bytes)
                if share.fault:
                    self._on_notice(
                        "PeerError", f"{share.peer} was dropped from {resolved.text}: {share.fault}"
                    )

    def transfers(self) -> Iterator[TransferView]:
        """The downloads that run now."""
        for transfer, (resolved, total_bytes) in self._running.items():
            facts = transfer.statistics()
            held_before = total_bytes - facts.total_bytes
            progress = Progress(
                "transfer",
                held_before + facts.verified_bytes,
                total_bytes,
                facts.rate_bytes_per_s,
                sum(1 for peer in facts.peers if peer.rate_bytes_per_s > 0),
            )
            yield TransferView(
                reference=resolved.text,
                content_id=content_id_text(resolved.digest),
                progress=progress,
            )

    @property
    def received_bytes(self) -> int:
        """Verified payload and documents, since the start."""
        running = sum(s.received_bytes for t in self._running for s in t.shares.values())
        return self._received.total + running + self._documents.received_bytes

    @property
    def sent_bytes(self) -> int:
        return self._serving.sent.total + self._document_server.sent_bytes

    def peer(self, peer: PeerId, is_outbound: bool) -> PeerView:
        """What is known of a connected peer, and what it gave and got."""
        known = self._network.known_address(peer)
        rates = [f for t in self._running for f in t.statistics().peers if f.peer == peer]
        running = sum(t.shares[peer].received_bytes for t in self._running if peer in t.shares)
        return PeerView(
            peer_id=str(peer),
            addresses=known.addresses if known else (),
            direction="out" if is_outbound else "in",
            received_bytes=self._received.of(peer) + running,
            sent_bytes=self._serving.sent.of(peer),
            down_bytes_per_s=sum(f.rate_bytes_per_s for f in rates),
            downloads=len(rates),
        )
