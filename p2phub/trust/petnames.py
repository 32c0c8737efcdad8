"""Petnames: what a user calls a publisher. Local, never sent, never taken from anybody else's file.

A publisher's id is its identity; what its metadata calls itself is only a claim. The table is one
small file, replaced whole and durably. Two petnames that look alike cannot stand for two
publishers: they are compared by their skeleton, in which letters that a reader confuses are one.

Source: petname systems (Stiegler 2005); Unicode UTS 39 for the idea of a skeleton, reduced to
ASCII.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from p2phub.core.trust.freshness import instant, instant_text, parse_instant
from p2phub.durable import make_folder, write_durably
from p2phub.errors import (
    BadPetname,
    PetnameTaken,
    StoreFailed,
    TooLarge,
    UnknownPetname,
    UnknownReference,
)
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX, PETNAMES_MAX
from p2phub.proto.names import is_address, is_petname, parse_publisher_id

_FORMAT: Final = 1
# One sign for each group of signs that look alike in some font. Pairs come first: "rn" is not "r"
# and "n".
_LOOK_ALIKE: Final = (
    ("rn", "m"),
    ("vv", "w"),
    ("cl", "d"),
    ("0", "o"),
    ("1", "l"),
    ("i", "l"),
    ("5", "s"),
    ("2", "z"),
    ("8", "b"),
    (".", "-"),
    ("_", "-"),
)


@dataclass(frozen=True, slots=True)
class Petname:
    """One entry of the table."""

    name: str
    publisher_id: str
    added: datetime
    peers: tuple[str, ...]  # multiaddrs from the link it was added with: where to ask first


class Petnames:
    """The table in one file. Thread-safe; one process at a time."""

    def __init__(self, path: Path) -> None:
        """Read the table, if there is one. A damaged one raises StoreFailed and is left alone."""
        self._path = path
        self._lock = threading.Lock()
        make_folder(path.parent)
        self._by_name = {entry.name: entry for entry in _read(path)}

    def add(
        self,
        name: str,
        publisher_id: str,
        now: datetime | float,
        peers: tuple[str, ...] = (),
    ) -> Petname:
        """Call a publisher `name` from now on, durably. The same entry again renews its peers.

        Raises BadPetname, UnknownReference (not a whole publisher id), PetnameTaken.
        """
        if not is_petname(name):
            raise BadPetname(f"{name[:80]!a} cannot be a petname", petname=ascii(name[:80]))
        parse_publisher_id(publisher_id)
        entry = Petname(name, publisher_id, instant(now), peers[:ADDRESSES_PER_PEER_MAX])
        with self._lock:
            twin = self._twin_of(name)
            if twin is not None and (twin.publisher_id != publisher_id or twin.name != name):
                raise PetnameTaken(
                    f"{name} looks like {twin.name}, which stands for {twin.publisher_id}: choose "
                    f"another petname, or remove {twin.name} first",
                    petname=name,
                    taken=twin.name,
                    publisher_id=twin.publisher_id,
                )
            if len(self._by_name) >= PETNAMES_MAX and twin is None:
                raise TooLarge(f"there are {PETNAMES_MAX} petnames already")
            self._replace({**self._by_name, name: entry})
        return entry

    def remove(self, name: str) -> Petname:
        """Forget a petname; returns what it was. Raises UnknownPetname."""
        with self._lock:
            entry = self._get(name)
            self._replace({key: value for key, value in self._by_name.items() if key != name})
        return entry

    def list(self) -> list[Petname]:
        """All entries, by name."""
        with self._lock:
            return sorted(self._by_name.values(), key=lambda entry: entry.name)

    def resolve(self, name: str) -> Petname:
        """Whom a petname stands for. Raises UnknownPetname, also for a look-alike."""
        with self._lock:
            return self._get(name)

    def names_of(self, publisher_id: str) -> tuple[str, ...]:
        """The petnames of a publisher."""
        return tuple(entry.name for entry in self.list() if entry.publisher_id == publisher_id)

    def _get(self, name: str) -> Petname:
        entry = self._by_name.get(name)
        if entry is not None:
            return entry
        # Shown escaped: a name in another script must not look like the one it imitates.
        shown = name if is_petname(name) else ascii(name[:80])
        twin = self._twin_of(name)
        hint = f"; did you mean {twin.name}?" if twin else ""
        raise UnknownPetname(
            f"no publisher has the petname {shown} here{hint} List them with `p2phub trust ls`"
            if hint
            else f"no publisher has the petname {shown} here: add it with "
            "`p2phub trust add PUBLISHER_ID --as PETNAME`",
            petname=shown,
        )

    def _twin_of(self, name: str) -> Petname | None:
        wanted = skeleton(name)
        for entry in self._by_name.values():
            if skeleton(entry.name) == wanted:
                return entry
        return None

    def _replace(self, by_name: dict[str, Petname]) -> None:
        document = {
            "v": _FORMAT,
            "petnames": [
                {
                    "name": entry.name,
                    "publisher_id": entry.publisher_id,
                    "added": instant_text(entry.added),
                    "peers": list(entry.peers),
                }
                for entry in sorted(by_name.values(), key=lambda entry: entry.name)
            ],
        }
        write_durably(self._path, json.dumps(document, indent=1).encode("ascii"), mode=0o600)
        self._by_name = by_name


def skeleton(name: str) -> str:
    """What `name` looks like at a glance: equal for names that a reader would confuse."""
    text = name.lower()
    for confused, sign in _LOOK_ALIKE:
        text = text.replace(confused, sign)
    return text


def _read(path: Path) -> list[Petname]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        document = json.loads(data)
        if document["v"] != _FORMAT:
            raise ValueError(f"format {document['v']}")
        return [_entry(record) for record in document["petnames"]]
    except (ValueError, KeyError, TypeError, AttributeError, UnknownReference) as error:
        raise StoreFailed(
            f"the petnames in {path} cannot be read ({error}): restore the file, or move it away "
            "and add them again",
            path=str(path),
        ) from error


def _entry(record: dict[str, Any]) -> Petname:  # Any is json's: checked here
    if not is_petname(record["name"]) or not all(is_address(peer) for peer in record["peers"]):
        raise ValueError("a petname or address is odd")
    parse_publisher_id(record["publisher_id"])
    return Petname(
        record["name"],
        record["publisher_id"],
        parse_instant(record["added"]),
        tuple(record["peers"]),
    )
