"""Whom to believe: publishers, keys and TUF repositories."""
