"""Values as text for people: times, tables, lists; and where each goes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any
from unicodedata import combining, east_asian_width

from p2phub.display import visible


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as exact as one looks: 3 s, 2 min, 1 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" if whole >= 600 else f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> int:
    """Whole seconds: 90s, 10m, 1h, 2d, or 0. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if text == "0":
        return 0
    if found is None:
        raise ValueError(f"{text[:40]!r} is no time such as 90s, 10m, 1h or 2d, or 0")
    return int(found[1]) * _UNITS_S[found[2]]


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def table(
    rows: Iterable[Sequence[object]], header: Sequence[str], right: Sequence[int] = ()
) -> str:
    """Columns as wide as they need, without lines. right: columns that hold numbers."""
    lines = [[visible(cell) for cell in row] for row in (header, *rows)]
    widths = [max(_columns(line[i]) for line in lines) for i in range(len(header))]

    def padded(i: int, cell: str) -> str:
        space = " " * (widths[i] - _columns(cell))
        return space + cell if i in right else cell + space

    return "\n".join("  ".join(map(padded, count(), line)).rstrip() for line in lines)


def _columns(text: str) -> int:
    """How many columns of a terminal `text` takes: Chinese, Japanese, Korean letters take two,
    marks upon others none. Source: Unicode, UAX #11.
    """
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def fields(rows: Iterable[tuple[str, object]]) -> str:
    """`name   value` lines; values that are empty are left out."""
    shown = [(name, visible(value)) for name, value in rows if value not in (None, "", [])]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def out(text: str) -> None:
    """A result."""
    print(text, flush=True)


def note(text: str) -> None:
    """Something beside the result."""
    print(text, file=sys.stderr, flush=True)


def out_json(value: Any) -> None:  # Any: what the daemon sent, as JSON
    """A result as one line of JSON."""
    print(json.dumps(value, ensure_ascii=True), flush=True)
