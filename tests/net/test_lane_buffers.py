"""Buffers never add up to more than their bound, and each has room for a whole frame."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from p2phub.net.lane_buffers import IDLE_BUFFERS_MAX, BufferPool
from p2phub.proto.limits import LANE_BUFFERS_BYTES_MAX, MIB, PAYLOAD_BYTES_MAX


class GivenUp(Exception):
    """The borrower was told to end."""


def test_all_buffers_together_stay_within_the_bound() -> None:
    pool = BufferPool()

    def give_up() -> None:
        raise GivenUp

    with ExitStack() as stack:
        for _ in range(LANE_BUFFERS_BYTES_MAX // PAYLOAD_BYTES_MAX):
            assert len(stack.enter_context(pool.lend())) == PAYLOAD_BYTES_MAX
        assert pool.lent_bytes == LANE_BUFFERS_BYTES_MAX
        with pytest.raises(GivenUp), pool.lend(give_up):
            pass
    assert pool.lent_bytes == 0
    assert len(pool._idle) == IDLE_BUFFERS_MAX


def test_a_buffer_that_comes_back_goes_to_who_waits() -> None:
    pool = BufferPool(MIB)
    got = threading.Event()

    def borrow() -> None:
        with pool.lend():
            got.set()

    with pool.lend():
        thread = threading.Thread(target=borrow)
        thread.start()
        assert not got.is_set()
    assert got.wait(5)
    thread.join(5)


def test_a_failure_inside_the_block_gives_the_buffer_back() -> None:
    pool = BufferPool(MIB)
    for _ in range(3):
        with pytest.raises(GivenUp), pool.lend():
            raise GivenUp
    assert pool.lent_bytes == 0
