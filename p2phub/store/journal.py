"""The journal: what no file of the store can tell, one line per fact, appended and synced before
the index says so.

A line is 16 hex digits of the BLAKE3 of the rest, a space, and one JSON object with a key `do`. A
torn, damaged or empty line is passed over. It is read only when the index is rebuilt.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, RLock
from typing import Any, TypeAlias

from p2phub.digest import DIGEST_BYTES, Digest, digest
from p2phub.errors import StoreFailed
from p2phub.store.base import Release
from p2phub.store.file_system import FileSystem, failures
from p2phub.store.rows import ObjectRow
from p2phub.store.stamps import FileStamp

Entry: TypeAlias = dict[str, Any]


class Journal:
    """Append-only lines in one file."""

    def __init__(self, path: Path, files: FileSystem) -> None:
        self._path = path
        self._files = files
        self._lock = Lock()
        self.keeping = RLock()  # held from the word that a release is kept, or not, to its row
        self._is_named = False  # whether the folder was synced since we know that the file is there
        self._is_clean = False  # whether all before the end was synced, by us

    def append(self, entries: Sequence[Entry]) -> None:
        """Durable on return. If it raises, the index must not say it either."""
        if not entries:
            return
        text = b"".join(_line(entry) for entry in entries)
        with self._lock:
            is_clean, self._is_clean = self._is_clean, False
            with failures(self._path):
                file = self._files.open(self._path, os.O_RDWR | os.O_CREAT)
            try:
                end = self._files.status(file, self._path).st_size
                # A line torn by a crash must not swallow the next one; nor may one whose sync
                # failed, which the system may show whole while the disk has zeros in its place.
                if end and not is_clean:
                    text = b"\n" + text
                self._files.write(file, [text], end, self._path)
                self._files.sync(file, self._path)
            finally:
                self._files.close(file)
            if not self._is_named:
                self._files.sync_folder(self._path.parent)
                self._is_named = True
            self._is_clean = True

    def read(self) -> Iterator[Entry]:
        """All entries that are whole, oldest first. Raises StoreFailed."""
        try:
            with failures(self._path), open(self._path, "rb") as lines:
                for line in lines:
                    mark, _, text = line.rstrip(b"\n").partition(b" ")
                    if mark == digest(text).hex()[:16].encode():
                        entry = json.loads(text)
                        if isinstance(entry, dict):
                            yield entry
        except StoreFailed as error:
            if error.facts["errno"] != errno.ENOENT:
                raise

    def told(self) -> Told:
        """What all entries together say. One that can't be understood is passed over."""
        told = Told()
        for entry in self.read():
            try:
                told.hear(entry)
            except (KeyError, ValueError, TypeError):
                continue
        return told


@dataclass(slots=True)
class Told:
    """What a journal says at its end."""

    releases: dict[tuple[Digest, str], Release] = field(default_factory=dict)
    adopted: dict[str, Entry] = field(default_factory=dict)  # by object, in hex
    parts: dict[Path, str] = field(default_factory=dict)  # in users' folders: their object, in hex

    def hear(self, entry: Entry) -> None:
        """The next entry. Raises KeyError, ValueError, TypeError where it is not as they are."""
        match entry.get("do"):
            case "adopt":
                self.adopted[str(entry["object"])] = entry
            case "forget":
                self.adopted.pop(str(entry["object"]), None)
            case "part":
                self.parts[Path(str(entry["path"]))] = str(entry["object"])
            case "keep":
                release = _release(entry)
                self.releases[release.manifest, release.name] = release
            case "let go":
                manifest, name = parse_name(entry["manifest"]), entry["name"]
                for key in [key for key in self.releases if key[0] == manifest]:
                    if name in (None, key[1]):
                        del self.releases[key]
            case "pin":
                manifest, is_pinned = parse_name(entry["manifest"]), bool(entry["pinned"])
                for key in [key for key in self.releases if key[0] == manifest]:
                    self.releases[key] = replace(self.releases[key], is_pinned=is_pinned)


def parse_name(text: object) -> Digest:
    """A digest in hex. Raises ValueError."""
    name = bytes.fromhex(str(text))
    if len(name) != DIGEST_BYTES:
        raise ValueError("not a digest")
    return name


def _release(entry: Entry) -> Release:
    return Release(
        parse_name(entry["manifest"]),
        str(entry["name"]),
        str(entry["origin"]),
        None if entry["path"] is None else Path(entry["path"]),
        str(entry["method"]),
        float(entry["added_s"]),
        bool(entry["pinned"]),
    )


def _line(entry: Entry) -> bytes:
    text = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    return digest(text).hex()[:16].encode() + b" " + text + b"\n"


def adopted(row: ObjectRow, path: Path, stamp: FileStamp) -> Entry:
    """The entry for a file that is used where it lies."""
    return {
        "do": "adopt",
        "object": row.digest.hex(),
        "sha256": row.sha256.hex(),
        "size": row.size,
        "chunks": row.chunk_count,
        "path": str(path),
        "stamp": [*stamp.numbers],
    }


def kept(release: Release) -> Entry:
    """The entry for a release that is kept."""
    return {
        "do": "keep",
        "manifest": release.manifest.hex(),
        "name": release.name,
        "origin": release.origin,
        "path": None if release.path is None else str(release.path),
        "method": release.method,
        "added_s": release.added_s,
        "pinned": release.is_pinned,
    }


def let_go(manifest: Digest, name: str | None) -> Entry:
    """The entry for a release that is kept no longer under a name; None: under any."""
    return {"do": "let go", "manifest": manifest.hex(), "name": name}


def part(name: Digest, path: Path) -> Entry:
    """The entry for a part in a folder of the user's."""
    return {"do": "part", "object": name.hex(), "path": str(path)}


def forgotten(row: ObjectRow) -> Entry:
    """The entry for a file of the user's that is used no more; it stays where it is."""
    return {"do": "forget", "object": row.digest.hex()}
