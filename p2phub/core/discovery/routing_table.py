"""Kademlia's memory of other nodes: many near us, some of every distance, proven ones only.

A node enters when it answered us, never because somebody named it, so a table cannot be filled with
inventions; old nodes that answer stay before new ones, so it cannot be flushed either.
Source: Maymounkov and Mazieres 2002, 2.2 and 2.4; the subnet rule: CVE-2020-10937.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

POSITION_BITS = 256
BUCKET_NODES_MAX = 20  # k of the paper
SPARES_MAX = 20  # nodes per bucket that wait for a place
FAILURES_MAX = 2  # unanswered questions in a row before a node is dropped: one may be a lost packet
NODES_PER_SUBNET_MAX = 2  # per bucket and public /24 or /48: addresses cost more than peer ids


@dataclass(slots=True)
class Node:
    """Another node of the DHT."""

    peer: str
    position: int  # SHA-256 of the peer id, as a number
    addresses: tuple[str, ...]
    failures: int = 0  # unanswered questions since its last answer


class RoutingTable:
    """Nodes by the length of the prefix that their position shares with ours."""

    def __init__(self, own_position: int) -> None:
        self._own_position = own_position
        # Invariant: a peer is in at most one of the two, in the bucket of its position; least
        # recently heard of first.
        self._buckets: dict[int, dict[str, Node]] = {}
        self._spares: dict[int, dict[str, Node]] = {}

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets.values())

    def __iter__(self) -> Iterator[Node]:
        for bucket in self._buckets.values():
            yield from bucket.values()

    def on_answer(self, peer: str, position: int, addresses: tuple[str, ...]) -> None:
        """A node answered or introduced itself over an authenticated connection."""
        if position == self._own_position or not addresses:
            return
        index = self.shared_bits(position)
        bucket = self._buckets.setdefault(index, {})
        spares = self._spares.setdefault(index, {})
        node = Node(peer, position, addresses)
        known = bucket.pop(peer, None)
        spares.pop(peer, None)
        if known is None and not self._has_room_for(node, bucket):
            spares[peer] = node
            if len(spares) > SPARES_MAX:
                del spares[next(iter(spares))]
            return
        bucket[peer] = node  # at the end: most recently heard of
        if len(bucket) > BUCKET_NODES_MAX:
            del bucket[next(peer for peer, node in bucket.items() if node.failures)]

    def on_failure(self, peer: str, position: int) -> None:
        """A node did not answer; after FAILURES_MAX in a row a spare takes its place."""
        index = self.shared_bits(position)
        self._spares.get(index, {}).pop(peer, None)
        bucket = self._buckets.get(index, {})
        node = bucket.get(peer)
        if node is None:
            return
        node.failures += 1
        if node.failures < FAILURES_MAX:
            return
        del bucket[peer]
        for spare in reversed(list(self._spares.get(index, {}).values())):
            if self._has_room_for(spare, bucket):
                del self._spares[index][spare.peer]
                bucket[spare.peer] = spare
                return

    def closest(self, position: int, count: int = BUCKET_NODES_MAX) -> list[Node]:
        """The known nodes nearest to a position, nearest first."""
        return sorted(self, key=lambda node: node.position ^ position)[:count]

    def depth(self) -> int:
        """The longest prefix, in bits, that a known node shares with us; 0 for an empty table."""
        return max((index for index, bucket in self._buckets.items() if bucket), default=0)

    def shared_bits(self, position: int) -> int:
        """How many leading bits a position shares with ours: the bucket it belongs to."""
        return POSITION_BITS - (position ^ self._own_position).bit_length()

    def _has_room_for(self, node: Node, bucket: dict[str, Node]) -> bool:
        if not _fits_subnets(node, bucket.values()):
            return False
        return len(bucket) < BUCKET_NODES_MAX or any(other.failures for other in bucket.values())


def _fits_subnets(node: Node, others: Iterable[Node]) -> bool:
    subnets = _public_subnets(node)
    if not subnets:
        return True
    neighbours = [subnet for other in others for subnet in _public_subnets(other)]
    return all(neighbours.count(subnet) < NODES_PER_SUBNET_MAX for subnet in subnets)


def _public_subnets(node: Node) -> set[str]:
    """The /24 and /48 networks of a node's public addresses; private ones and names count for
    nothing.
    """
    found = set()
    for address in node.addresses:
        _, kind, host, *_ = address.split("/")
        if kind not in ("ip4", "ip6"):
            continue
        ip = ipaddress.ip_address(host)
        if ip.is_global:
            found.add(str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False)))
    return found
