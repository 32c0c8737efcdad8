"""Trio tasks that carry out what core decided."""
