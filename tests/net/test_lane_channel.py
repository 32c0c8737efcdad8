"""The TLS connection of a lane: what counts as sent."""

from __future__ import annotations

import pytest
import trio

from p2phub.errors import PeerTimeout
from p2phub.proto.limits import MIB
from tests.net.lane_pair import listening, open_channels


async def test_what_the_wire_has_no_room_for_does_not_count_as_sent() -> None:
    def still_waiting() -> None:
        raise PeerTimeout("nobody reads")

    async with listening() as listener:
        sending, receiving = await open_channels(listener)
        sending.settle()
        with pytest.raises(PeerTimeout):
            await trio.to_thread.run_sync(
                sending.send, b"header", memoryview(bytes(MIB)), still_waiting
            )
        sending.close()
        receiving.close()
