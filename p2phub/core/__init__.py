"""What the node decides: synchronous, pure, without I/O, clock or randomness of its own."""
