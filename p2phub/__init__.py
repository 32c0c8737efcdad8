"""p2phub: AI models and datasets between peers, signed and verified, without a central server."""
