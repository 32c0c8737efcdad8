"""One verified state of a publisher: roots, a timestamp, and what they name, loaded when asked for.

A state lives in a folder of its own. Roots and timestamp are chosen before (follower.py); every
other file is named, with its length and SHA-256, by the one before it, and only the answer that
matches is looked at.

Source: TUF specification 5.5 to 5.7.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from tuf.api.metadata import Root, Timestamp

from p2phub.core.trust.releases import ReleaseStatement
from p2phub.digest import sha256
from p2phub.errors import MetadataIncomplete, TamperedMetadata
from p2phub.paths import StateFolder
from p2phub.proto.limits import ANSWERS_MAX
from p2phub.trust.documents import Document, read_role, release_statements
from p2phub.trust.floor import SeenStatement
from p2phub.trust.updater import DurableUpdater

# All distinct answers of the peers that were asked: (file name, most bytes) -> files. Empty only if
# every peer that answered says that there is no such file; raises NoProvider if none answered.
Fetch: TypeAlias = Callable[[str, int], list[bytes]]

_FILE_NAME: Final = re.compile(r"([1-9][0-9]{0,15})\.([A-Za-z0-9._-]{1,96})\.json", re.ASCII)


class View:
    """One state: the roots and a timestamp, and what is verified under them as it is asked for."""

    def __init__(
        self,
        folder: Path,
        roots: list[Document[Root]],
        timestamp: Document[Timestamp],
        ask: Fetch,
        reference_time: datetime,
    ) -> None:
        self.folder = folder
        self.ask = ask
        self.documents: dict[str, Document[Any]] = {"root": roots[-1], "timestamp": timestamp}
        self._roots = {f"{root.version}.root.json": root.data for root in roots}
        self.updater = DurableUpdater(folder, self._look_up, roots[0].data, reference_time)

    @property
    def names(self) -> tuple[str, ...]:
        """Names that have a role."""
        delegations = self.updater.targets.delegations
        return tuple(delegations.roles) if delegations and delegations.roles else ()

    @property
    def expires(self) -> datetime:
        """When the first of the files that all names depend on expires."""
        updater = self.updater
        return min(
            signed.expires
            for signed in (updater.root, updater.timestamp, updater.snapshot, updater.targets)
        )

    def load(self, name: str) -> bool:
        """Verify the file of a name, fetched if need be; False if there is no such name."""
        return self.updater.load_name(name) and self._document(name) is not None

    def holds(self, name: str) -> bool:
        """Whether the file of a name is here, so that nobody need be asked."""
        meta = self.updater.snapshot.meta.get(f"{name}.json")
        return meta is not None and self.file(f"{meta.version}.{name}.json") is not None

    def statements(self, publisher_id: str, name: str) -> tuple[ReleaseStatement, ...]:
        """The releases of a name whose file is held."""
        self.load(name)
        releases = self.documents[name].signed
        return release_statements(publisher_id, name, releases, self.updater.root.version)

    def seen(self) -> list[SeenStatement]:
        """All that was verified, for the floor."""
        for role in ("snapshot", "targets"):
            self._document(role)
        return [self.seen_of(role) for role in self.documents]

    def seen_of(self, role: str) -> SeenStatement:
        """One verified file, for the floor."""
        document = self.documents[role]
        root = self.updater.root
        if role == "root":
            keys = b""  # versions of roots go up by one for ever, whatever keys they name
        elif role in root.roles:
            keys = authority(root, role)
        else:
            keys = authority(self.updater.targets, role)
        return SeenStatement(role, document.version, document.payload_sha256, keys)

    def file(self, file_name: str) -> bytes | None:
        """A file of this state by the name that peers ask for, hashed against what names it."""
        if file_name == "timestamp.json":
            return self.documents["timestamp"].data
        if file_name in self._roots:
            return self._roots[file_name]
        match = _FILE_NAME.fullmatch(file_name)
        if match is None:
            return None
        meta = self._meta_of(match[2])
        if meta is None or meta.version != int(match[1]):
            return None
        try:
            data = StateFolder(self.folder).role(match[2]).read_bytes()
        except FileNotFoundError:
            return None
        return data if sha256(data).hex() == meta.hashes["sha256"] else None

    def forget_stale_snapshot(self) -> None:
        """Drop a held snapshot of the announced version but with other content.

        tuf would take it for the announced one, unhashed. Fetched anew, it is then compared with
        the floor.
        """
        path = StateFolder(self.folder).role("snapshot")
        meta = self._meta_of("snapshot")
        if not path.exists():
            return
        data = path.read_bytes()
        is_announced = sha256(data).hex() == meta.hashes["sha256"]
        if not is_announced and read_role("snapshot", data).version == meta.version:
            path.unlink()

    def _document(self, role: str) -> Document[Any]:
        document = self.documents.get(role)
        if document is None:
            # tuf has just verified this very file, or fetched it through _look_up.
            document = read_role(role, StateFolder(self.folder).role(role).read_bytes())
            self.documents[role] = document
        return document

    def _look_up(self, file_name: str) -> bytes | None:
        """Files as tuf asks for them: roots and timestamp are chosen, the rest goes by hash."""
        if file_name == "timestamp.json":
            return self.documents["timestamp"].data
        match = _FILE_NAME.fullmatch(file_name)
        if match is None or match[2] == "root":
            return self._roots.get(file_name)
        role = match[2]
        meta = self._meta_of(role)
        answers = distinct_answers(self.ask, file_name, meta.length)
        for data in answers:
            if len(data) == meta.length and sha256(data).hex() == meta.hashes["sha256"]:
                read_role(role, data)
                return data
        if answers:
            raise TamperedMetadata(
                f"no peer has the {file_name} that the publisher signed, only others",
                file=file_name,
            )
        raise MetadataIncomplete(f"no peer that answered has {file_name}", file=file_name)

    def _meta_of(self, role: str) -> Any:
        """What the file before says of this one. Any: tuf types hashes as optional."""
        if role == "snapshot":
            return self.documents["timestamp"].signed.snapshot_meta
        return self.updater.snapshot.meta.get(f"{role}.json")


def distinct_answers(ask: Fetch, file_name: str, bytes_max: int) -> list[bytes]:
    """Distinct answers, no more of them and none longer than allowed."""
    return [data for data in dict.fromkeys(ask(file_name, bytes_max)) if len(data) <= bytes_max][
        :ANSWERS_MAX
    ]


def authority(delegator: Any, role: str) -> bytes:
    """What identifies a role's keys and threshold. Any: tuf has no common type for delegators."""
    named = delegator.get_delegated_role(role)
    return sha256(f"{named.threshold}:{','.join(sorted(named.keyids))}".encode("ascii"))
