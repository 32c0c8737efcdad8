"""The Range header. Pure.

Source: RFC 9110 section 14; only the first form that downloaders use: one range of bytes.
"""

from __future__ import annotations

import re
from typing import Final

_RANGE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


class Unsatisfiable(Exception):
    """A range that begins at or after the end of the file."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, stop) of a file of `size` bytes, or None for all of it. Raises Unsatisfiable.

    An end past the file is cut to it. What is malformed, in other units or more than one range is
    ignored, as the RFC allows:
    the answer is then the whole file.
    """
    found = _RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return size - length, size
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(int(last) + 1, size) if last else size
