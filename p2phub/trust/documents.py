"""One TUF metadata file, read strictly: within the profile of TUF that p2phub speaks.

python-tuf is lenient where TUF is: it takes JSON with a key twice (the last one wins), `true` for
1, one key under two ids, files without hashes. Each of these has been somebody's hole. So every
file passes here before tuf sees it, and what tuf then verifies is exactly what was checked.

This module verifies form and, on request, signatures. Order, age and rollback are the follower's.

Source: TUF specification 1.0.34 section 4 (formats); SPEC.md, publishers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from p2phub.core.trust.freshness import parse_instant
from p2phub.core.trust.releases import ReleaseStatement
from p2phub.core.trust.strict_json import Json, parse_object
from p2phub.digest import sha256
from p2phub.errors import TamperedMetadata, WrongSigner
from p2phub.proto.limits import (
    ROOT_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)
from p2phub.trust.profile import (
    FIELD,
    check_common,
    check_envelope,
    check_releases,
    check_root,
    check_snapshot,
    check_targets,
    check_timestamp,
)
from p2phub.trust.release_records import parse_release_record

Signed = TypeVar("Signed", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True, slots=True)
class Document(Generic[Signed]):
    """A metadata file within the profile. Nobody's signature was checked yet."""

    role: str  # root, timestamp, snapshot, targets, or a release name
    data: bytes  # the file as received
    metadata: Metadata[Signed]
    payload: bytes = field(repr=False)  # the canonical form that signatures are over
    payload_sha256: bytes  # names the statement: files differ by spaces and stray signatures

    @property
    def signed(self) -> Signed:
        return self.metadata.signed

    @property
    def version(self) -> int:
        return self.metadata.signed.version


@dataclass(frozen=True, slots=True)
class TimestampFields:
    """What p2phub adds to the timestamp."""

    root_version: int  # the newest root when it was signed
    fresh_until: datetime
    peers: tuple[str, ...]  # multiaddrs at which the publisher's own node may be reached


@dataclass(frozen=True, slots=True)
class RootCommitment:
    """Which keys, by their digests, must sign the next root."""

    threshold: int
    keyids: tuple[str, ...]


def read_root(data: bytes) -> Document[Root]:
    """Parse a root. Raises TamperedMetadata unless it is within the profile."""
    return _read("root", Root, data, ROOT_BYTES_MAX, check_root)


def read_timestamp(data: bytes) -> Document[Timestamp]:
    """Parse a timestamp. Raises TamperedMetadata unless it is within the profile."""
    return _read("timestamp", Timestamp, data, TIMESTAMP_BYTES_MAX, check_timestamp)


def read_snapshot(data: bytes) -> Document[Snapshot]:
    """Parse a snapshot. Raises TamperedMetadata unless it is within the profile."""
    return _read("snapshot", Snapshot, data, SNAPSHOT_BYTES_MAX, check_snapshot)


def read_targets(data: bytes) -> Document[Targets]:
    """Parse the top-level targets: names and who signs for each. Raises TamperedMetadata."""
    return _read("targets", Targets, data, TARGETS_BYTES_MAX, check_targets)


def read_releases(name: str, data: bytes) -> Document[Targets]:
    """Parse the releases of one model or dataset name. Raises TamperedMetadata."""
    return _read(name, Targets, data, TARGETS_BYTES_MAX, partial(check_releases, name))


def read_role(role: str, data: bytes) -> Document[Any]:
    """Parse the file of any role but root and timestamp, by the role's name."""
    if role == "snapshot":
        return read_snapshot(data)
    return read_targets(data) if role == "targets" else read_releases(role, data)


def verify_signatures(document: Document[Signed], delegator: Root | Targets) -> None:
    """Check that enough of the keys `delegator` names for the document's role signed it.

    Raises WrongSigner. Keys are known to be distinct, since the delegator is within the profile.
    """
    try:
        delegator.verify_delegate(document.role, document.payload, document.metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise WrongSigner(
            f"{document.role} version {document.version} is not signed by the keys its publisher "
            f"names for it: {error}",
            role=document.role,
            version=document.version,
        ) from error


def timestamp_fields(timestamp: Timestamp) -> TimestampFields:
    """p2phub's fields of a timestamp within the profile."""
    fields = timestamp.unrecognized_fields[FIELD]
    return TimestampFields(
        root_version=fields["root_version"],
        fresh_until=parse_instant(fields["fresh_until"]),
        peers=tuple(fields["peers"]),
    )


def root_commitment(root: Root) -> RootCommitment:
    """The keys a root within the profile commits to for its successor."""
    committed = root.unrecognized_fields[FIELD]["next_root"]
    return RootCommitment(committed["threshold"], tuple(committed["keyids"]))


def release_statements(
    publisher_id: str, name: str, releases: Targets, root_version: int
) -> tuple[ReleaseStatement, ...]:
    """The releases of a name, from a document within the profile."""
    return tuple(
        parse_release_record(publisher_id, name, path, target.to_dict(), root_version)
        for path, target in releases.targets.items()
    )


def _read(
    role: str,
    kind: type[Signed],
    data: bytes,
    bytes_max: int,
    check: Callable[[dict[str, Json]], None],
) -> Document[Signed]:
    try:
        parsed = parse_object(data, bytes_max)
        check_envelope(parsed)
        check_common(kind.type, parsed["signed"])
        check(parsed["signed"])
        metadata = Metadata[Signed].from_dict(parsed)
        payload = metadata.signed_bytes
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        RepositoryError,
    ) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise TamperedMetadata(
            f"the {role} metadata is not as it must be: {ascii(reason[:200])[1:-1]}", role=role
        ) from error
    return Document(role, data, metadata, payload, sha256(payload))
