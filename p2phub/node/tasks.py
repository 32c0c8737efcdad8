"""A nursery whose expected errors come out as themselves.

trio wraps what leaves a nursery in an exception group. Whoever awaits an operation of the node
wants the one P2phubError that ended it. Anything else in the group is a bug and comes out as the
group, with all its tracebacks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from p2phub.errors import P2phubError


@asynccontextmanager
async def open_tasks() -> AsyncIterator[trio.Nursery]:
    """As trio.open_nursery; a group of P2phubErrors is raised as the first of them."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        expected = [leaf for leaf in leaves if isinstance(leaf, P2phubError)]
        if expected and all(isinstance(leaf, (P2phubError, trio.Cancelled)) for leaf in leaves):
            # A Cancelled that is left out here is delivered again at the next checkpoint.
            raise expected[0] from None
        raise


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
