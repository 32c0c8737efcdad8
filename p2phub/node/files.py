"""The node's own small files: read with a bound, written so that a crash leaves the old or the new,
never a part.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from p2phub.errors import StoreFailed


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
    """Replace a file whole. Raises StoreFailed."""
    temporary = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StoreFailed(f"cannot write {path}: {error.strerror}", path=str(path)) from error
