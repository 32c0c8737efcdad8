"""Documents, messages, limits and vectors: every byte on the wire or on disk."""
