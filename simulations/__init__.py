"""The daemon's own decisions in virtual time: the classes of p2phub.core over modelled links.

No rule of picking, choking, offering or announcing is written here; what is here are links,
sessions that deliver messages late, and checkers that look on at every step. The same seed gives
the same trace.
"""
