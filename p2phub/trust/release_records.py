"""One release inside a TUF targets file: target path and record, to and from a ReleaseStatement.

    "<name>/<version>/manifest": {length, hashes: {sha256},
        custom: {release: <content id of the manifest>, kind, license, status, reason?, attest?:
        [{kind, cid, length, sha256}]}}

`length` and the SHA-256 are the manifest document's own, so that tools which know TUF alone can
check it too.

Source: TUF specification 4.5; SPEC.md, publishers.
"""

from __future__ import annotations

import re
from typing import Any, Final

from p2phub.core.trust.releases import Attestation, ReleaseStatement, ReleaseStatus
from p2phub.core.trust.versions import is_normal_version
from p2phub.errors import P2phubError
from p2phub.proto.content_id import content_id_text, parse_content_id
from p2phub.proto.limits import (
    ATTESTATIONS_MAX,
    LICENSE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    METADATA_INTEGER_MAX,
    REASON_LENGTH_MAX,
)

KINDS: Final = ("model", "dataset")
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_WORD: Final = re.compile(r"[a-z0-9-]{1,32}", re.ASCII)


def release_path(name: str, version: str) -> str:
    """The target path of a release."""
    return f"{name}/{version}/manifest"


def release_record(statement: ReleaseStatement) -> dict[str, Any]:
    """The TUF target entry that says `statement`."""
    custom: dict[str, Any] = {
        "release": content_id_text(statement.manifest_digest),
        "kind": statement.kind,
        "license": statement.license,
        "status": statement.status.value,
    }
    if statement.reason:
        custom["reason"] = statement.reason
    if statement.attestations:
        custom["attest"] = [
            {"kind": a.kind, "cid": a.content_id, "length": a.length, "sha256": a.sha256.hex()}
            for a in statement.attestations
        ]
    return {
        "length": statement.manifest_length,
        "hashes": {"sha256": statement.manifest_sha256.hex()},
        "custom": custom,
    }


def parse_release_record(
    publisher_id: str,
    name: str,
    path: str,
    record: dict[str, Any],  # Any is json's: untyped until checked here
    root_version: int,
) -> ReleaseStatement:
    """The statement a target entry makes. Raises ValueError, KeyError or TypeError if it is odd."""
    version = path.removeprefix(f"{name}/").removesuffix("/manifest")
    if path != release_path(name, version) or not is_normal_version(version):
        raise ValueError(f"a release has an odd path: {path[:200]}")
    if record.keys() != {"length", "hashes", "custom"} or record["hashes"].keys() != {"sha256"}:
        raise ValueError("a release has other fields than it must")
    custom = record["custom"]
    if not {"release", "kind", "license", "status"} <= custom.keys() <= _CUSTOM_FIELDS:
        raise ValueError("a release says other things than it must")
    if custom["kind"] not in KINDS:
        raise ValueError("a release is neither model nor dataset")
    attested = custom.get("attest", [])
    if type(attested) is not list or len(attested) > ATTESTATIONS_MAX:
        raise ValueError("a release has too many attestations")
    return ReleaseStatement(
        publisher_id=publisher_id,
        name=name,
        version=version,
        manifest_digest=_content_digest(custom["release"]),
        manifest_length=_length(record["length"], MANIFEST_BYTES_MAX),
        manifest_sha256=_sha256(record["hashes"]["sha256"]),
        kind=custom["kind"],
        license=_line(custom["license"], LICENSE_BYTES_MAX),
        status=ReleaseStatus(custom["status"]),
        reason=_line(custom.get("reason", ""), REASON_LENGTH_MAX),
        root_version=root_version,
        attestations=tuple(_attestation(one) for one in attested),
    )


_CUSTOM_FIELDS: Final = frozenset({"release", "kind", "license", "status", "reason", "attest"})


def _attestation(record: dict[str, Any]) -> Attestation:
    if record.keys() != {"kind", "cid", "length", "sha256"} or not _WORD.fullmatch(record["kind"]):
        raise ValueError("an attestation has other fields than it must")
    _content_digest(record["cid"])
    return Attestation(
        kind=record["kind"],
        content_id=record["cid"],
        length=_length(record["length"], METADATA_INTEGER_MAX),
        sha256=_sha256(record["sha256"]),
    )


def _content_digest(text: str) -> bytes:
    try:
        return parse_content_id(text)
    except P2phubError:
        raise ValueError("a release points at something that is no content id") from None


def _sha256(text: str) -> bytes:
    if not _SHA256.fullmatch(text):
        raise ValueError("a hash is odd")
    return bytes.fromhex(text)


def _length(value: int, bytes_max: int) -> int:
    if type(value) is not int or not 0 < value <= bytes_max:
        raise ValueError("a length is out of range")
    return value


def _line(text: str, length_max: int) -> str:
    """`text` if it can be shown on one line: no invisible characters that mislead a terminal."""
    if type(text) is not str or len(text) > length_max or not (text.isprintable() or text == ""):
        raise ValueError("a release has a text that cannot be shown")
    return text
