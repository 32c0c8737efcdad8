"""Choosing among peers' answers: which roots, and which timestamp.

A peer can withhold and can send rubbish; it cannot forge. Rubbish is put aside and noted, and of
what verifies the newest counts. Two statements of one version that both verify are equivocation,
whoever brought them.

Source: TUF specification 5.3 and 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Root, Timestamp

from p2phub.errors import (
    BrokenRootChain,
    EquivocationFound,
    RollbackRefused,
    TrustError,
    UnknownPublisher,
)
from p2phub.proto.limits import ROOT_BYTES_MAX, ROOT_ROTATIONS_MAX, TIMESTAMP_BYTES_MAX
from p2phub.trust.documents import Document, read_timestamp, timestamp_fields, verify_signatures
from p2phub.trust.floor import Floor
from p2phub.trust.root_chain import check_first_root, check_next_root
from p2phub.trust.view import Fetch, authority, distinct_answers


@dataclass(slots=True)
class Selection:
    """One look at what peers offer of one publisher."""

    publisher_id: str
    floor: Floor
    ask: Fetch
    moment: datetime
    refused: list[TrustError] = field(default_factory=list)  # what was put aside

    def roots(self, held: list[bytes]) -> list[Document[Root]]:
        """Every root from the first to the newest that anybody has.

        held: the roots on disk from the first on; only later ones are asked for.
        Raises RollbackRefused, EquivocationFound, UnknownPublisher, and what was wrong with every
        first root offered.
        """
        seen = self.floor.seen(self.publisher_id).get("root")
        roots: list[Document[Root]] = []
        while len(roots) < ROOT_ROTATIONS_MAX:
            root = self._next_root(roots, held)
            if root is None:
                break
            if seen and seen.version == root.version and seen.payload_sha256 != root.payload_sha256:
                raise self._accuse("root", root.version, None, root.data)
            roots.append(root)
        if not roots:
            if self.refused:
                raise self.refused[0]
            raise UnknownPublisher(publisher_id=self.publisher_id)
        if seen and roots[-1].version < seen.version:
            raise self._rollback("root", roots[-1].version, seen.version)
        return roots

    def timestamp(self, held: bytes | None, root: Document[Root]) -> Document[Timestamp]:
        """The newest timestamp of all that verify under `root`.

        held: the one on disk; it counts as one more answer, but cannot save peers who offer only
        older ones.
        Raises RollbackRefused, EquivocationFound, UnknownPublisher, BrokenRootChain, and what was
        wrong with the answers if none verifies.
        """
        answers = distinct_answers(self.ask, "timestamp.json", TIMESTAMP_BYTES_MAX)
        offered = self._verified(answers, root)
        if answers and not offered:
            raise self.refused[0]
        # A held file fails after the root gave the role to other keys: then it no longer counts.
        own = self._verified([held], root, is_held=True) if held is not None else []
        newest_by_version: dict[int, Document[Timestamp]] = {}
        for document in [*own, *offered]:
            other = newest_by_version.setdefault(document.version, document)
            if other.payload_sha256 != document.payload_sha256:
                raise self._accuse("timestamp", document.version, other.data, document.data)
        if not newest_by_version:
            raise UnknownPublisher(publisher_id=self.publisher_id)
        newest = newest_by_version[max(newest_by_version)]
        offered_version = max((d.version for d in offered), default=newest.version)
        floor_version = max(newest.version, self._timestamp_floor(root))
        if offered_version < floor_version:
            raise self._rollback("timestamp", offered_version, floor_version)
        self._check_root_version(newest, root)
        return newest

    def _next_root(self, roots: list[Document[Root]], held: list[bytes]) -> Document[Root] | None:
        version = len(roots) + 1
        is_held = version <= len(held)
        if is_held:
            answers = [held[version - 1]]
        else:
            answers = distinct_answers(self.ask, f"{version}.root.json", ROOT_BYTES_MAX)
        lawful: dict[bytes, Document[Root]] = {}
        for data in answers:
            try:
                root = (
                    check_next_root(roots[-1], data)
                    if roots
                    else check_first_root(self.publisher_id, data)
                )
            except TrustError as error:
                if is_held:
                    raise
                # One liar must not stop a refresh: nobody else's answer is worse for it.
                self.refused.append(error)
            else:
                lawful.setdefault(root.payload_sha256, root)
        if len(lawful) > 1:
            first, second, *_ = lawful.values()
            raise self._accuse("root", version, first.data, second.data)
        return next(iter(lawful.values()), None)

    def _verified(
        self, answers: list[bytes], root: Document[Root], is_held: bool = False
    ) -> list[Document[Timestamp]]:
        found: list[Document[Timestamp]] = []
        for data in answers:
            try:
                document = read_timestamp(data)
                verify_signatures(document, root.signed)
            except TrustError as error:
                if not is_held:
                    self.refused.append(error)
            else:
                found.append(document)
        return found

    def _timestamp_floor(self, root: Document[Root]) -> int:
        seen = self.floor.seen(self.publisher_id).get("timestamp")
        if seen is None or seen.authority != authority(root.signed, "timestamp"):
            return 0
        return seen.version

    def _check_root_version(self, timestamp: Document[Timestamp], root: Document[Root]) -> None:
        needed = timestamp_fields(timestamp.signed).root_version
        if needed <= root.version:
            return
        if self.refused:
            raise self.refused[0]
        raise BrokenRootChain(
            f"the timestamp was signed under root version {needed}, which nobody could show",
            expected=needed,
            got=root.version,
        )

    def _rollback(self, role: str, version: int, floor_version: int) -> RollbackRefused:
        return RollbackRefused(
            f"all that was offered is {role} version {version} or older, but version "
            f"{floor_version} was already seen; what is known here still holds",
            role=role,
            version=version,
            floor=floor_version,
        )

    def _accuse(
        self, role: str, version: int, first: bytes | None, second: bytes
    ) -> EquivocationFound:
        return self.floor.accuse(self.publisher_id, role, version, first, second, self.moment)


def nobody(file_name: str, bytes_max: int) -> list[bytes]:
    """A network without peers, for looking at what is held."""
    return []
