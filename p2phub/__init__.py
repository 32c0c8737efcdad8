"""p2phub: AI models and datasets between peers, signed and verified, without a central server."""

__version__ = "0.1.0"
