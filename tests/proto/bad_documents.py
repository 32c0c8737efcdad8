"""Documents that must be refused: what differs from a good one, and the error that says so."""

from __future__ import annotations

from typing import Any

D = bytes(range(32))
E = bytes(range(32, 64))
MIB = 1 << 20

_MALFORMED = "MalformedDocument"
_HOSTILE = "HostilePath"


def _file(path: str, size: Any = 5, name: bytes = D, count: Any = 1) -> list[Any]:
    return [path, size, E, name, count]


def _files(*rows: list[Any]) -> dict[str, Any]:
    return {"files": list(rows)}


def _segments(*rows: list[Any]) -> dict[str, Any]:
    return {"segments": list(rows)}


BAD_DOCUMENTS: list[tuple[str, str, dict[str, Any], str]] = [
    ("object", "an unknown rule", {"rule": "cdc-64k/1"}, _MALFORMED),
    ("object", "a newer version", {"v": 2}, _MALFORMED),
    ("object", "a version that is true", {"v": True}, _MALFORMED),
    ("object", "an unknown key", {"extra": 1}, _MALFORMED),
    ("object", "another type", {"type": "p2phub/segment"}, _MALFORMED),
    ("object", "a size that is not the sum", {"size": 100_001}, _MALFORMED),
    ("object", "no segment", _segments(), _MALFORMED),
    ("object", "one chunk", _segments([D, 321, 1, 100_000]), _MALFORMED),
    ("object", "a short name", _segments([D[:31], 321, 7, 100_000]), _MALFORMED),
    ("object", "a count that is true", _segments([D, 321, True, 100_000]), _MALFORMED),
    ("object", "a row too long", _segments([D, 321, 7, 100_000, 1]), _MALFORMED),
    ("object", "too many chunks", _segments([D, 321, 8193, 100_000]), _MALFORMED),
    ("object", "a short SHA-256", {"sha256": E[:31]}, _MALFORMED),
    ("segment", "no chunk", {"digests": b"", "lengths": b""}, _MALFORMED),
    ("segment", "a digest too few", {"digests": D}, _MALFORMED),
    ("segment", "a chunk of no bytes", {"lengths": bytes(8)}, _MALFORMED),
    ("segment", "a chunk over 1 MiB", {"lengths": (MIB + 1).to_bytes(4, "big") * 2}, _MALFORMED),
    ("segment", "lengths as a list", {"lengths": [4096, 65536]}, _MALFORMED),
    ("file page", "no file", _files(), _MALFORMED),
    ("file page", "out of order", _files(_file("b"), _file("a")), _MALFORMED),
    ("file page", "a path twice", _files(_file("a"), _file("a")), _MALFORMED),
    ("file page", "an empty file by another name", _files(_file("a", 0, D, 0)), _MALFORMED),
    ("file page", "more chunks than bytes", _files(_file("a", 5, D, 6)), _MALFORMED),
    ("file page", "a chunk over 1 MiB", _files(_file("a", MIB + 1)), _MALFORMED),
    ("file page", "a size that is true", _files(_file("a", True)), _MALFORMED),
    ("file page", "a negative size", _files(_file("a", -1)), _MALFORMED),
    ("file page", "up", _files(_file("../x")), _HOSTILE),
    ("file page", "absolute", _files(_file("/etc/passwd")), _HOSTILE),
    ("file page", "a drive", _files(_file("C:x")), _HOSTILE),
    ("file page", "backslashes", _files(_file("a\\..\\b")), _HOSTILE),
    ("file page", "a device", _files(_file("aux.txt")), _HOSTILE),
    ("file page", "git's folder", _files(_file(".GIT/config")), _HOSTILE),
    ("file page", "a short name of Windows", _files(_file("GIT~1/x")), _HOSTILE),
    ("file page", "a control character", _files(_file("a\x1bb")), _HOSTILE),
    ("file page", "right to left", _files(_file("a\u202eb")), _HOSTILE),
    ("file page", "decomposed", _files(_file("u\u0308")), _HOSTILE),
    ("file page", "two leaders", _files(_file("\u2024\u2024/x")), _HOSTILE),
    ("file page", "a blank at the end", _files(_file("a ")), _HOSTILE),
    ("file page", "an option", _files(_file("-rf")), _HOSTILE),
    ("file page", "an empty path", _files(_file("")), _HOSTILE),
    ("file page", "33 levels", _files(_file("/".join("a" * 33))), _HOSTILE),
    ("file page", "256 bytes in a name", _files(_file("a" * 256)), _HOSTILE),
    ("manifest", "an unknown kind", {"kind": "virus"}, _MALFORMED),
    ("manifest", "a newer version", {"v": 2}, _MALFORMED),
    ("manifest", "an unknown key", {"time": 5}, _MALFORMED),
    ("manifest", "no page", {"pages": []}, _MALFORMED),
    ("manifest", "an empty page", {"pages": [[D, 400, 0, 0]]}, _MALFORMED),
    ("manifest", "a page of true files", {"pages": [[D, 400, True, 5]]}, _MALFORMED),
    ("manifest", "a page over 1 MiB", {"pages": [[D, MIB + 1, 1, 5]]}, _MALFORMED),
    ("manifest", "2 PiB", {"pages": [[D, 400, 1, 1 << 50]] * 2}, _MALFORMED),
    ("manifest", "a hostile card", {"card": "../README.md"}, _HOSTILE),
    ("manifest", "too many tags", {"tags": ["a"] * 65}, _MALFORMED),
    ("manifest", "a tag that moves the cursor", {"tags": ["\x1b[2J"]}, _MALFORMED),
]
