"""Peer: the other side broke the rules."""

from __future__ import annotations

from p2phub.errors.base import P2phubError


class PeerError(P2phubError):
    """A peer broke the protocol. Its connection was closed; other peers are not affected."""

    exit_code = 70


class ProtocolViolation(PeerError):
    """A peer sent something the protocol does not allow. Its connection was closed."""

    exit_code = 71


class StreamClosed(PeerError):
    """The connection to a peer ended before the exchange was done.

    Another peer is asked; what was verified is kept.
    """

    exit_code = 72


class PeerTimeout(PeerError):
    """A peer did not answer in time. Another peer is asked."""

    exit_code = 73


class ProtocolRefused(PeerError):
    """A peer does not offer what was asked of it.

    It may run another version; another peer is asked.
    """

    exit_code = 74
