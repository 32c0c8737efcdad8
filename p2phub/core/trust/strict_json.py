"""JSON of which every reader reads the same: no key twice, whole numbers in bounds, not too deep.

Python's parser takes an object with a key twice (the last one wins), NaN and integers of any
length. Each has been somebody's hole where two programs judge one signed file.

Source: RFC 8259 section 4; I-JSON, RFC 7493 sections 2.2 and 2.3.
"""

from __future__ import annotations

import json
from typing import Any, Final

from p2phub.proto.limits import (
    METADATA_CONTAINERS_MAX,
    METADATA_DEPTH_MAX,
    METADATA_INTEGER_MAX,
)

_INTEGER_DIGITS_MAX: Final = len(str(METADATA_INTEGER_MAX))

# Any is json's: a parsed document is untyped until it was checked.
Json = Any


def parse_object(data: bytes, bytes_max: int) -> dict[str, Json]:
    """The object that is all of `data`. Raises ValueError or RecursionError for anything else."""
    # Sizes come before parsing: a file of empty objects costs thirty times its size in memory.
    if len(data) > bytes_max:
        raise ValueError(f"it is longer than {bytes_max} bytes")
    if data.count(b"{") + data.count(b"[") > METADATA_CONTAINERS_MAX:
        raise ValueError(f"it has more than {METADATA_CONTAINERS_MAX} objects and arrays")
    parsed = json.loads(
        data.decode("utf-8"),
        object_pairs_hook=_unique,
        parse_int=_bounded_integer,
        parse_float=_refuse_number,
        parse_constant=_refuse_number,
    )
    if not isinstance(parsed, dict):
        raise ValueError("it is no JSON object")
    return parsed


def check_depth(value: Json, depth_max: int = METADATA_DEPTH_MAX) -> None:
    """Raises ValueError if objects and arrays lie more than `depth_max` deep in each other. Whether
    they are refused shall not depend on our own stack.
    """
    if not depth_max:
        raise ValueError("it is nested too deeply")
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            check_depth(inner, depth_max - 1)


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a key twice")
    return found


def _bounded_integer(digits: str) -> int:
    # The length is checked first: turning 10,000 digits into a number is itself an attack.
    if len(digits) > _INTEGER_DIGITS_MAX or not 0 <= int(digits) <= METADATA_INTEGER_MAX:
        raise ValueError("it has an integer out of range")
    return int(digits)


def _refuse_number(text: str) -> Json:
    raise ValueError("it has a number that is no integer")
