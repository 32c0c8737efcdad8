"""The node's own small files: read with a bound, replaced whole, seen by their owner alone."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from p2phub import durable
from p2phub.errors import StoreError, StoreFailed

log = logging.getLogger(__name__)


def read_json(path: Path, size_max: int) -> Any:  # Any: json's
    """What is in a JSON file of ours; None if it is not there, too large or damaged: it is then
    made anew.
    """
    try:
        with path.open("rb") as file:
            data = file.read(size_max + 1)
    except FileNotFoundError:
        return None
    if len(data) > size_max:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file whole. Raises StoreFull, StoreFailed."""
    try:
        durable.write_durably(path, data, mode=0o600)
    except OSError as error:
        raise StoreFailed(f"cannot write {path}: {error.strerror}", path=str(path)) from error


def try_write(path: Path, data: bytes) -> None:
    """As `write_durably`, for what can be made anew: a full disk must not end the node for it."""
    try:
        write_durably(path, data)
    except StoreError as error:
        log.warning("%s", error)
