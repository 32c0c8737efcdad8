"""A release as core sees it: pages with the lengths of their chunks. There are no bytes."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import cached_property

from p2phub.digest import Digest, digest
from p2phub.proto.limits import SEGMENT_CHUNKS_MAX


@dataclass(frozen=True)
class Content:
    """The pages of one release, in manifest order."""

    pages: dict[Digest, array[int]]  # lengths by page

    @cached_property
    def size_bytes(self) -> int:
        return sum(map(sum, self.pages.values()))

    @classmethod
    def of(cls, size_bytes: int, chunk_bytes: int) -> Content:
        """One file of `size_bytes` in chunks of `chunk_bytes`."""
        whole, rest = divmod(size_bytes, chunk_bytes)
        lengths = [chunk_bytes] * whole + [rest] * (rest > 0)
        pages = {}
        for start in range(0, len(lengths), SEGMENT_CHUNKS_MAX):
            page = array("I", lengths[start : start + SEGMENT_CHUNKS_MAX])
            pages[digest(f"page {start} of {size_bytes}".encode())] = page
        return cls(pages)
