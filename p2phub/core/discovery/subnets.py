"""Which network a multiaddr lies in: the diversity of sources is counted by it; and which network
has more than its share.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable


def subnet_of(address: str) -> str | None:
    """The /24 or /48 of a multiaddr's IP; the address itself for host names.

    None: loopback, private and link-local networks, where many peers behind one prefix are normal.
    """
    parts = address.split("/")
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return "/".join(parts[:3])
    try:
        ip = ipaddress.ip_address(parts[2])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_private or ip.is_loopback or ip.is_link_local:
        return None
    prefix = 24 if ip.version == 4 else 48
    return str(ipaddress.ip_network((ip, prefix), strict=False))


def is_local(address: str) -> bool:
    """Whether a multiaddr lies in this machine's or a private network."""
    return subnet_of(address) is None


def crowding(networks: Iterable[str], newcomer: str) -> str | None:
    """Of those who hold all places there are, the network with most of them, if it is to give one
    to the network of one that came later; None where that would have as many then.
    """
    held = Counter(networks)
    for network, count in held.most_common(1):
        if count > held[newcomer] + 1:
            return network
    return None
