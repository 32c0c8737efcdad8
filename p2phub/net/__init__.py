"""Network: libp2p host, discovery and the lanes that carry bulk bytes."""
