"""The profile of TUF that p2phub speaks: what each role's file must say, and may not.

Bounded integers, Ed25519 keys under their own digests, SHA-256 and length of every file that
another names, one role for each model name. A check raises ValueError, KeyError, TypeError or
AttributeError where a file is not so.

Source: TUF specification 1.0.34 section 4 (formats); SPEC.md, publishers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from securesystemslib.formats import encode_canonical

from p2phub.core.trust.freshness import parse_instant
from p2phub.core.trust.strict_json import Json, check_depth
from p2phub.digest import sha256
from p2phub.proto.limits import (
    ADDRESSES_PER_PEER_MAX,
    DELEGATIONS_MAX,
    METADATA_INTEGER_MAX,
    RELEASES_PER_NAME_MAX,
    ROLE_KEYS_MAX,
    SIGNATURES_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
)
from p2phub.proto.names import is_address, is_name
from p2phub.trust.release_records import parse_release_record

FIELD: Final = "x-p2phub"  # ours in root and timestamp; TUF signs what it does not know
FIELD_VERSION: Final = 1

_TOP_LEVEL_ROLES: Final = frozenset({"root", "targets", "snapshot", "timestamp"})
_HEX_32_BYTES: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HEX_64_BYTES: Final = re.compile(r"[0-9a-f]{128}", re.ASCII)
_SPEC_VERSION: Final = re.compile(r"1\.\d{1,4}(\.\d{1,4})?", re.ASCII)
# Fields of whose content every part is checked; what else is signed is TUF's or the future's.
_CHECKED_FIELDS: Final = frozenset({"roles", "keys", "meta", "targets", "delegations", FIELD})
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


def key_digest(public_hex: str) -> str:
    """The key id that an Ed25519 public key must have.

    Source: TUF specification 4.2, keyid: SHA-256 of the key's canonical JSON.
    """
    text = encode_canonical(
        {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public_hex}}
    )
    assert text is not None  # no output function was given
    return sha256(text.encode("utf-8")).hex()


def release_pattern(name: str) -> str:
    """The path pattern of the role that signs for `name`."""
    return f"{name}/*/manifest"


def check_envelope(parsed: dict[str, Json]) -> None:
    """Of a file of any role: what is signed, and by whom it says so."""
    # Further unsigned fields are ignored, as TUF says; the statement's digest does not cover them.
    _require(type(parsed["signed"]) is dict, "signed is no object")
    for key in parsed.keys() - {"signed", "signatures"}:
        check_depth([parsed[key]])
    signatures = parsed["signatures"]
    _require(type(signatures) is list, "signatures is no list")
    _require(len(signatures) <= SIGNATURES_MAX, f"it has more than {SIGNATURES_MAX} signatures")
    for signature in signatures:
        _require_keys(signature, {"keyid", "sig"}, "a signature")
        _require(_is_hex(signature["keyid"], _HEX_32_BYTES), "a signature has an odd key id")
        _require(_is_hex(signature["sig"], _HEX_64_BYTES), "a signature is not 64 bytes")


def check_common(kind: str, signed: dict[str, Json]) -> None:
    """Of the signed part of a file of any role. kind: the word for it that TUF uses."""
    _require(signed["_type"] == kind, f"it is no {kind}")
    _require(_is_positive(signed["version"]), "its version is no positive integer")
    spec = signed["spec_version"]
    _require(type(spec) is str and _SPEC_VERSION.fullmatch(spec) is not None, "it is not TUF 1")
    parse_instant(signed["expires"])
    for key in signed.keys() - _CHECKED_FIELDS:
        check_depth([signed[key]])


def check_root(signed: dict[str, Json]) -> None:
    _require(signed["consistent_snapshot"] is True, "it lacks consistent snapshots")
    _require_keys(signed["roles"], _TOP_LEVEL_ROLES, "roles")
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


def check_timestamp(signed: dict[str, Json]) -> None:
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


def check_snapshot(signed: dict[str, Json]) -> None:
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


def check_targets(signed: dict[str, Json]) -> None:
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


def check_releases(name: str, signed: dict[str, Json]) -> None:
    _require("delegations" not in signed, "a name's role delegates further")
    releases = signed["targets"]
    _require(
        len(releases) <= RELEASES_PER_NAME_MAX, f"it has more than {RELEASES_PER_NAME_MAX} releases"
    )
    statements = [
        parse_release_record("", name, path, record, 0) for path, record in releases.items()
    ]
    _require_distinct((s.version_key for s in statements), "it has a version twice")


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
