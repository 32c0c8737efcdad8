"""Network: nobody answered, or a port is taken."""

from __future__ import annotations

from p2phub.errors.base import P2phubError


class NetworkError(P2phubError):
    """The network could not do what was asked. Nothing was lost; the same command resumes."""

    exit_code = 60


class PortInUse(NetworkError):
    """Another program listens on this address.

    Nothing was started; stop it or choose another port.
    """

    exit_code = 61


class NoProvider(NetworkError):
    """No peer was found that holds this.

    Check the reference, wait until its publisher is online, or name a peer: with --peer, by the
    link that was printed when it was published, or with p2phub connect.
    """

    exit_code = 62


class PeerUnreachable(NetworkError):
    """A peer could not be reached at any of its addresses.

    It may be offline or behind a firewall.
    """

    exit_code = 63


class TransferStalled(NetworkError):
    """All peers stopped sending before the transfer was complete.

    What was verified is kept; run the same command again to resume.
    """

    exit_code = 64


class LanesBusy(NetworkError):
    """Too many lanes are opening at once.

    The transfer goes on over the session's own connection.
    """

    exit_code = 65
