"""`python -m tests.benchmarks.free_rider`: a daemon that takes and never gives an upload slot."""

from __future__ import annotations

import sys

from p2phub import daemon
from p2phub.core.swarm.uploads import Uploads, _Peer
from p2phub.node import serving


class NoUploads(Uploads):
    """Upload slots that nobody gets."""

    def _unchoke(self, state: _Peer, now: float) -> None:
        pass


if __name__ == "__main__":
    serving.Uploads = NoUploads  # type: ignore[misc]
    sys.exit(daemon.main())
