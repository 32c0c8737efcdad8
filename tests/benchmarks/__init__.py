"""Measurements of p2phub, each beside its own bound or rival in the same run."""
