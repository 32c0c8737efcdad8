"""Making signed TUF files: a new root, a file with enough signatures on it, what names a file.

Source: TUF specification 4.2 (signatures), 4.3 (root), 4.4 (file entries).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Metadata, MetaFile, Role, Root

from p2phub.digest import sha256
from p2phub.errors import WrongSigner
from p2phub.trust.profile import FIELD, FIELD_VERSION, release_pattern

ROOT_LIFETIME: Final = timedelta(days=730)


@dataclass(frozen=True, slots=True)
class RootKeys:
    """Who may sign what, as root.json shall say it. One key has one purpose."""

    root: Sequence[Key]
    next_root: Sequence[Key]  # public keys, first used at the next rotation
    targets: Sequence[Key]
    online: Key
    root_threshold: int = 1
    next_root_threshold: int = 1
    targets_threshold: int = 1


def new_root(version: int, keys: RootKeys, moment: datetime) -> Root:
    """A root of `version` that says what `keys` say. It is not signed yet."""
    online = [keys.online.keyid]
    named = [*keys.root, *keys.targets, keys.online]
    return Root(
        version=version,
        expires=moment + ROOT_LIFETIME,
        consistent_snapshot=True,
        keys={key.keyid: key for key in named},
        roles={
            "root": Role([key.keyid for key in keys.root], keys.root_threshold),
            "targets": Role([key.keyid for key in keys.targets], keys.targets_threshold),
            "snapshot": Role(online, 1),
            "timestamp": Role(list(online), 1),
        },
        unrecognized_fields={
            FIELD: {
                "v": FIELD_VERSION,
                "next_root": {
                    "threshold": keys.next_root_threshold,
                    "keyids": [key.keyid for key in keys.next_root],
                },
                "equivocation": "halt",
            }
        },
    )


def delegated_role(name: str, targets_role: Role) -> DelegatedRole:
    """The role that signs for `name`, with the keys of the targets role."""
    return DelegatedRole(
        name,
        list(targets_role.keyids),
        targets_role.threshold,
        terminating=True,
        paths=[release_pattern(name)],
    )


def signers_of(root: Root, role: str) -> tuple[frozenset[str], int]:
    """What must stay equal for a role's old signatures to count under a new root."""
    return frozenset(root.roles[role].keyids), root.roles[role].threshold


def by_keyid(signers: Iterable[Signer]) -> dict[str, Signer]:
    """`signers` by the ids of their keys."""
    return {signer.public_key.keyid: signer for signer in signers}


def signed_file(
    signed: Any,  # one of tuf's four kinds; Metadata's type variable cannot be named here
    keys: Sequence[Key],
    threshold: int,
    signers: Mapping[str, Signer],
) -> bytes:
    """`signed` as a file with signatures. Raises WrongSigner if they are too few."""
    metadata: Metadata[Any] = Metadata(signed)
    add_signatures(metadata, keys, threshold, signers)
    return metadata.to_bytes()


def add_signatures(
    metadata: Metadata[Any],
    keys: Sequence[Key],
    threshold: int,
    signers: Mapping[str, Signer],
) -> None:
    """Add the signatures of all `keys` whose signers are here. Raises WrongSigner if too few."""
    present = [signers[key.keyid] for key in keys if key.keyid in signers]
    if len(present) < threshold:
        raise WrongSigner(
            f"{metadata.signed.type} version {metadata.signed.version} needs {threshold} of its "
            f"keys to sign; {len(present)} were given",
            role=metadata.signed.type,
        )
    for signer in present:
        metadata.sign(signer, append=True)


def meta_file(version: int, data: bytes) -> MetaFile:
    """How another file names this one: version, length, SHA-256."""
    return MetaFile(version, len(data), {"sha256": sha256(data).hex()})
