"""The control socket's language: one JSON object per line, both ways, over a unix socket of mode
0600.

    request   {"method": "fetch", "params": {...}}
    reply     {"progress": {...}}          any number of them
              {"data": n}                  followed by n raw bytes; `read` alone sends these
              {"result": ...}              or {"error": {"kind", "message", "meaning", "exit_code",
              "facts"}}

A connection carries one request at a time. Closing it cancels the request that runs; a fetch
resumes with the next one.
No clock, no sockets here: the client and the server share this page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from p2phub.errors import P2phubError, UsageError, all_errors, explanation
from p2phub.proto.content_id import content_id_text

REQUEST_BYTES_MAX: Final = 16 << 20  # one line: a publisher's signed metadata, 7 MB, in base64
REPLY_BYTES_MAX: Final = 512 << 20  # one line from our own daemon: a release of a million files
DATA_BYTES_MAX: Final = 4 << 20  # raw bytes after one {"data": n}
CLIENTS_MAX: Final = 64  # commands at once; more are refused, not kept waiting
PROGRESS_INTERVAL_S: Final = 0.1  # between two progress lines: what an eye can follow
BUG_EXIT_CODE: Final = 1

# Fields that hold a BLAKE3 name; they are shown as content ids, which every command takes.
_NAMED_BY_CONTENT_ID: Final = frozenset({"manifest", "object"})

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})

Json = dict[str, Any]  # a decoded JSON object; checked field by field where it is used


class BadRequest(UsageError):
    """The daemon did not understand the command.

    It may be of another version than this program: restart the daemon.
    """


def encode_line(value: Mapping[str, object]) -> bytes:
    """One object as a line. Lone surrogates from file names stay escapes, so any text passes."""
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode_line(line: bytes) -> Json:
    """The object in a line. Raises BadRequest."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not a line of JSON: {str(error)[:100]}") from None
    if not isinstance(value, dict):
        raise BadRequest("a line holds something other than a JSON object")
    return value


def plain(value: object, name: str = "") -> Any:
    """A value of the node's interface in JSON's terms: dataclasses as objects, digests as text,
    paths as text."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        return content_id_text(value) if name in _NAMED_BY_CONTENT_ID else value.hex()
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    kind: type = type(value)
    names = _field_names(kind)
    if names is not None:
        values = ((name, getattr(value, name)) for name in names)
        return {
            name: entry if type(entry) in _PLAIN else plain(entry, name) for name, entry in values
        }
    return str(value)


@cache
def _field_names(kind: type) -> tuple[str, ...] | None:
    """Of a dataclass; None for every other class."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None


def error_object(error: P2phubError) -> Json:
    """An expected error as the command line shows it."""
    return {
        "kind": error.kind,
        "message": str(error),
        "meaning": explanation(type(error)),
        "exit_code": error.exit_code,
        "facts": plain(error.facts),
    }


def bug_object(error: BaseException) -> Json:
    """An error that nobody expected; its traceback is in the daemon's log."""
    return {
        "kind": "Bug",
        "message": f"{type(error).__name__} in the daemon",
        "meaning": "This is a fault of p2phub. The daemon runs on; its log has the details.",
        "exit_code": BUG_EXIT_CODE,
        "facts": {},
    }


class RemoteError(P2phubError):
    """The daemon refused, for a reason this version of the command line does not know."""

    def __init__(self, found: Json) -> None:
        facts = found.get("facts")
        super().__init__(
            str(found.get("message", "")), **(facts if isinstance(facts, dict) else {})
        )
        self.remote_kind = str(found.get("kind", "P2phubError"))
        self.meaning = str(found.get("meaning", ""))
        code = found.get("exit_code")
        self.remote_exit_code = code if isinstance(code, int) and 0 < code < 126 else 1


def raised(found: object) -> P2phubError:
    """The error that an error object stands for, of the class it had in the daemon where this
    version has that class."""
    error = found if isinstance(found, dict) else {}
    facts = error.get("facts")
    for known in all_errors():
        if known.__name__ == error.get("kind") and known is not RemoteError:
            plain_facts = facts if isinstance(facts, dict) else {}
            return known(str(error.get("message", "")), **plain_facts)
    return RemoteError(error)
