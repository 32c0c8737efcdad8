"""One TUF metadata file, read strictly: the profile of TUF that p2phub speaks.

python-tuf is lenient where TUF is: it takes JSON with a key twice (the last one wins), `true` for
1, one key under two ids, files without hashes. Each of these has been somebody's hole. So every
file passes here before tuf sees it, and what tuf then verifies is exactly what was checked: no key
twice, bounded integers, Ed25519 keys under their own digests, SHA-256 and length of every file
named by another, one role per model name.

This module verifies form and, on request, signatures. Order, age and rollback are the follower's.

Source: TUF specification 1.0.34 section 4 (formats); SPEC.md, publishers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from securesystemslib.formats import encode_canonical
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from p2phub.core.trust.releases import ReleaseStatement
from p2phub.digest import sha256
from p2phub.errors import TamperedMetadata, WrongSigner
from p2phub.proto.limits import (
    ADDRESSES_PER_PEER_MAX,
    DELEGATIONS_MAX,
    METADATA_CONTAINERS_MAX,
    METADATA_DEPTH_MAX,
    METADATA_INTEGER_MAX,
    RELEASES_PER_NAME_MAX,
    ROLE_KEYS_MAX,
    ROOT_BYTES_MAX,
    SIGNATURES_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)
from p2phub.proto.names import is_address, is_name
from p2phub.trust.release_records import parse_release_record

FIELD: Final = "x-p2phub"  # ours in root and timestamp; TUF signs what it does not know
FIELD_VERSION: Final = 1
TOP_LEVEL_ROLES: Final = frozenset({"root", "targets", "snapshot", "timestamp"})

_HEX_32_BYTES: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEX_64_BYTES: Final = re.compile(r"[0-9a-f]{128}", re.ASCII)
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_SPEC_VERSION: Final = re.compile(r"1\.\d{1,4}(\.\d{1,4})?", re.ASCII)
# Fields of whose content every part is checked; what else is signed is TUF's or the future's.
_CHECKED_FIELDS: Final = frozenset({"roles", "keys", "meta", "targets", "delegations", FIELD})
_INTEGER_DIGITS_MAX: Final = len(str(METADATA_INTEGER_MAX))
# Points of small order, in every encoding a verifier may take: under such a key anybody's signature
# verifies.
_WEAK_KEYS: Final = frozenset(
    point + sign
    for point, signs in {
        "01" + "00" * 30: ("00", "80"),
        "00" * 31: ("00", "80"),
        "ec" + "ff" * 30: ("7f", "ff"),
        "ed" + "ff" * 30: ("7f", "ff"),
        "ee" + "ff" * 30: ("7f", "ff"),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc": ("05", "85"),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03": ("7a", "fa"),
    }.items()
    for sign in signs
)

# Any is json's: a parsed document is untyped until it was checked here.
Json = Any
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
    return _read("root", Root, data, ROOT_BYTES_MAX, _check_root)


def read_timestamp(data: bytes) -> Document[Timestamp]:
    """Parse a timestamp. Raises TamperedMetadata unless it is within the profile."""
    return _read("timestamp", Timestamp, data, TIMESTAMP_BYTES_MAX, _check_timestamp)


def read_snapshot(data: bytes) -> Document[Snapshot]:
    """Parse a snapshot. Raises TamperedMetadata unless it is within the profile."""
    return _read("snapshot", Snapshot, data, SNAPSHOT_BYTES_MAX, _check_snapshot)


def read_targets(data: bytes) -> Document[Targets]:
    """Parse the top-level targets: names and who signs for each. Raises TamperedMetadata."""
    return _read("targets", Targets, data, TARGETS_BYTES_MAX, _check_targets)


def read_releases(name: str, data: bytes) -> Document[Targets]:
    """Parse the releases of one model or dataset name. Raises TamperedMetadata."""

    def check(signed: dict[str, Json]) -> None:
        _check_releases(name, signed)

    return _read(name, Targets, data, TARGETS_BYTES_MAX, check)


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


def key_digest(public_hex: str) -> str:
    """The key id that an Ed25519 public key must have.

    Source: TUF specification 4.2, keyid: SHA-256 of the key's canonical JSON.
    """
    text = encode_canonical(
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public_hex}}
    )
    assert text is not None  # no output function was given
    return sha256(text.encode("utf-8")).hex()


def parse_instant(text: str) -> datetime:
    """A time as TUF writes it. Raises ValueError for every other form."""
    if not _INSTANT.fullmatch(text):
        raise ValueError(f"not a time of the form 2026-01-31T00:00:00Z: {text[:40]!a}")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z")


def _read(
    role: str,
    kind: type[Signed],
    data: bytes,
    bytes_max: int,
    check: Callable[[dict[str, Json]], None],
) -> Document[Signed]:
    try:
        parsed = _parse_json(data, bytes_max)
        _check_envelope(parsed)
        _check_common(kind.type, parsed["signed"])
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


def _parse_json(data: bytes, bytes_max: int) -> dict[str, Json]:
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


def _check_envelope(parsed: dict[str, Json]) -> None:
    # Further unsigned fields are ignored, as TUF says; the statement's digest does not cover them.
    _require(type(parsed["signed"]) is dict, "signed is no object")
    for key in parsed.keys() - {"signed", "signatures"}:
        _require_shallow([parsed[key]])
    signatures = parsed["signatures"]
    _require(type(signatures) is list, "signatures is no list")
    _require(len(signatures) <= SIGNATURES_MAX, f"it has more than {SIGNATURES_MAX} signatures")
    for signature in signatures:
        _require_keys(signature, {"keyid", "sig"}, "a signature")
        _require(_is_hex(signature["keyid"], _HEX_32_BYTES), "a signature has an odd key id")
        _require(_is_hex(signature["sig"], _HEX_64_BYTES), "a signature is not 64 bytes")


def _check_common(kind: str, signed: dict[str, Json]) -> None:
    _require(signed["_type"] == kind, f"it is no {kind}")
    _require(_is_positive(signed["version"]), "its version is no positive integer")
    spec = signed["spec_version"]
    _require(type(spec) is str and _SPEC_VERSION.fullmatch(spec) is not None, "it is not TUF 1")
    parse_instant(signed["expires"])
    for key in signed.keys() - _CHECKED_FIELDS:
        _require_shallow([signed[key]])


def _check_root(signed: dict[str, Json]) -> None:
    _require(signed["consistent_snapshot"] is True, "it lacks consistent snapshots")
    _require_keys(signed["roles"], TOP_LEVEL_ROLES, "roles")
    keys = _checked_keys(signed["keys"])
    for role in signed["roles"].values():
        _require_keys(role, {"keyids", "threshold"}, "a role")
        _check_role_keys(role, keys)
    holders = {name: set(role["keyids"]) for name, role in signed["roles"].items()}
    # One key for two purposes would let a signature for the one be looked for under the other.
    online = holders["snapshot"] | holders["timestamp"]
    _require(
        not (
            holders["root"] & holders["targets"] or online & (holders["root"] | holders["targets"])
        ),
        "a root, targets or online key serves two purposes",
    )
    fields = signed[FIELD]
    _require_keys(fields, {"v", "next_root", "equivocation"}, FIELD)
    _require_field_version(fields)
    _require(fields["equivocation"] == "halt", "it has an unknown rule for equivocation")
    committed = fields["next_root"]
    _require_keys(committed, {"keyids", "threshold"}, "next_root")
    _check_threshold(committed)
    _require(not set(committed["keyids"]) & set(keys), "a key of the next root is already in use")


def _check_timestamp(signed: dict[str, Json]) -> None:
    _require_keys(signed["meta"], {"snapshot.json"}, "meta")
    _check_meta_file(signed["meta"]["snapshot.json"], SNAPSHOT_BYTES_MAX)
    fields = signed[FIELD]
    _require_keys(fields, {"v", "root_version", "fresh_until", "peers"}, FIELD)
    _require_field_version(fields)
    _require(_is_positive(fields["root_version"]), "its root version is no positive integer")
    parse_instant(fields["fresh_until"])
    peers = fields["peers"]
    _require(type(peers) is list and len(peers) <= ADDRESSES_PER_PEER_MAX, "it has too many peers")
    _require(all(type(peer) is str and is_address(peer) for peer in peers), "a peer is no address")


def _check_snapshot(signed: dict[str, Json]) -> None:
    meta = signed["meta"]
    _require(len(meta) <= DELEGATIONS_MAX + 1, f"it has more than {DELEGATIONS_MAX} names")
    _require("targets.json" in meta, "it does not name the targets")
    for file_name, meta_file in meta.items():
        _check_meta_file(meta_file, TARGETS_BYTES_MAX)
        name = file_name.removesuffix(".json")
        _require(
            file_name == "targets.json" or (name != file_name and is_name(name)),
            "it names an odd file",
        )


def _check_targets(signed: dict[str, Json]) -> None:
    _require(signed["targets"] == {}, "it has releases outside of a name's own role")
    delegations = signed["delegations"]
    _require_keys(delegations, {"keys", "roles"}, "delegations")
    keys = _checked_keys(delegations["keys"])
    roles = delegations["roles"]
    _require(type(roles) is list, "roles is no list")
    _require(len(roles) <= DELEGATIONS_MAX, f"it has more than {DELEGATIONS_MAX} names")
    for role in roles:
        _require_keys(role, {"name", "keyids", "threshold", "terminating", "paths"}, "a role")
        _require(type(role["name"]) is str and is_name(role["name"]), "a role has an odd name")
        # Exactly its own name's releases, so that no role can speak for another's.
        _require(role["paths"] == [release_pattern(role["name"])], "a role claims other paths")
        _require(role["terminating"] is True, "a role does not end the search")
        _check_role_keys(role, keys)
    _require_distinct((role["name"].lower() for role in roles), "it has a name twice")


def _check_releases(name: str, signed: dict[str, Json]) -> None:
    _require("delegations" not in signed, "a name's role delegates further")
    releases = signed["targets"]
    _require(
        len(releases) <= RELEASES_PER_NAME_MAX, f"it has more than {RELEASES_PER_NAME_MAX} releases"
    )
    statements = [
        parse_release_record("", name, path, record, 0) for path, record in releases.items()
    ]
    _require_distinct((s.version_key for s in statements), "it has a version twice")


def release_pattern(name: str) -> str:
    """The path pattern of the role that signs for `name`."""
    return f"{name}/*/manifest"


def _checked_keys(keys: dict[str, Json]) -> dict[str, Json]:
    """`keys` if each is an Ed25519 key under its own digest, so that no key can count twice."""
    for keyid, key in keys.items():
        _require_keys(key, {"keytype", "scheme", "keyval"}, "a key")
        _require_keys(key["keyval"], {"public"}, "a key")
        public = key["keyval"]["public"]
        _require(key["keytype"] == key["scheme"] == "ed25519", "a key is not Ed25519")
        _require(_is_hex(public, _HEX_32_BYTES), "a public key is not 32 bytes")
        _require(public not in _WEAK_KEYS, "a public key is one that anybody can sign for")
        _require(key_digest(public) == keyid, "a key is listed under another id than its own")
    return keys


def _check_role_keys(role: dict[str, Json], keys: dict[str, Json]) -> None:
    _check_threshold(role)
    _require(all(keyid in keys for keyid in role["keyids"]), "a role names a key that is not there")


def _check_threshold(role: dict[str, Json]) -> None:
    keyids = role["keyids"]
    _require(type(keyids) is list and len(keyids) <= ROLE_KEYS_MAX, "a role has too many keys")
    _require(all(_is_hex(keyid, _HEX_32_BYTES) for keyid in keyids), "a role has an odd key id")
    _require_distinct(keyids, "a role names a key twice")
    threshold = role["threshold"]
    _require(
        _is_positive(threshold) and threshold <= len(keyids), "a role's threshold cannot be met"
    )


def _check_meta_file(meta_file: dict[str, Json], bytes_max: int) -> None:
    _require_keys(meta_file, {"version", "length", "hashes"}, "a file")
    _require(_is_positive(meta_file["version"]), "a file's version is no positive integer")
    length = meta_file["length"]
    _require(_is_positive(length) and length <= bytes_max, "a file's length is out of range")
    _require_keys(meta_file["hashes"], {"sha256"}, "hashes")
    _require(_is_hex(meta_file["hashes"]["sha256"], _HEX_32_BYTES), "a file's hash is odd")


def _require_field_version(fields: dict[str, Json]) -> None:
    version = fields["v"]
    _require(type(version) is int and version == FIELD_VERSION, "it was made for a newer p2phub")


def _require_shallow(value: Json, depth: int = METADATA_DEPTH_MAX) -> None:
    # Unknown fields alone can be deep; whether they are refused must not depend on our own stack.
    _require(depth > 0, "it is nested too deeply")
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            _require_shallow(inner, depth - 1)


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def _require_keys(value: Json, keys: Iterable[str], what: str) -> None:
    _require(
        type(value) is dict and value.keys() == set(keys), f"{what} has other fields than it must"
    )


def _require_distinct(values: Iterable[object], reason: str) -> None:
    listed = list(values)
    _require(len(set(listed)) == len(listed), reason)


def _is_positive(value: Json) -> bool:
    return type(value) is int and 0 < value <= METADATA_INTEGER_MAX


def _is_hex(value: Json, pattern: re.Pattern[str]) -> bool:
    return type(value) is str and pattern.fullmatch(value) is not None
