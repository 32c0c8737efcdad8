"""What a publisher's repository says at one moment, read to be signed on.

Every role's version counts up from what was read; 0 stands for "none yet". The timestamp decides
what is current, also which root: files that a cut-off act left behind are overwritten by the next.

Source: TUF specification 6, usage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from securesystemslib.signer import Signer
from tuf.api.metadata import Delegations, Root, Snapshot, Targets, Timestamp

from p2phub.core.trust.freshness import instant_text
from p2phub.errors import BadReleaseName
from p2phub.paths import RepositoryFolder, metadata_file
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX
from p2phub.proto.names import is_address
from p2phub.trust.documents import (
    Document,
    read_releases,
    read_root,
    read_snapshot,
    read_targets,
    read_timestamp,
    timestamp_fields,
    verify_signatures,
)
from p2phub.trust.profile import FIELD, FIELD_VERSION
from p2phub.trust.signing import delegated_role, meta_file, signed_file

TARGETS_LIFETIME: Final = timedelta(days=365)
ONLINE_LIFETIME: Final = timedelta(days=90)  # how long an eclipse can freeze a follower
FRESH_FOR: Final = timedelta(days=7)  # after it, followers warn


@dataclass(slots=True)
class SignedState:
    """The parsed files of a repository; `sign` makes the next ones from them."""

    folder: RepositoryFolder
    root: Document[Root]
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets

    @classmethod
    def begin(cls, folder: RepositoryFolder, root: Document[Root]) -> SignedState:
        """The state of a publisher that has said nothing yet."""
        nothing = Targets(targets={}, delegations=Delegations(keys={}, roles={}))
        state = cls(folder, root, Timestamp(), Snapshot(meta={}), nothing)
        state.timestamp.version = state.snapshot.version = state.targets.version = 0
        return state

    @classmethod
    def read(cls, folder: RepositoryFolder) -> SignedState:
        """The state in `folder`. Raises FileNotFoundError, TamperedMetadata."""
        timestamp = read_timestamp(folder.metadata("timestamp").read_bytes()).signed
        root_version = timestamp_fields(timestamp).root_version
        root = read_root(folder.metadata("root", root_version).read_bytes())
        snapshot_file = folder.metadata("snapshot", timestamp.snapshot_meta.version)
        snapshot = read_snapshot(snapshot_file.read_bytes()).signed
        targets_file = folder.metadata("targets", snapshot.meta["targets.json"].version)
        return cls(
            folder, root, timestamp, snapshot, read_targets(targets_file.read_bytes()).signed
        )

    @property
    def names(self) -> list[str]:
        """The names that have releases."""
        return list(self._delegations.roles or ())

    def releases(self, name: str) -> Targets:
        """The releases of a name, none if it is new."""
        meta = self.snapshot.meta.get(metadata_file(name))
        if meta is None:
            nothing = Targets(targets={})
            nothing.version = 0
            return nothing
        return read_releases(name, self.folder.metadata(name, meta.version).read_bytes()).signed

    def delegate(self, name: str) -> bool:
        """Give `name` its role, signed for by the targets keys; False if it has one.

        Raises BadReleaseName if it differs from another name in capital letters only.
        """
        delegations = self._delegations
        assert delegations.roles is not None
        if name in delegations.roles:
            return False
        for known in delegations.roles:
            if known.lower() == name.lower():
                raise BadReleaseName(
                    f"{name} differs from {known} only in capital letters: use {known}", name=name
                )
        role = self.root.signed.roles["targets"]
        delegations.keys.update({keyid: self.root.signed.keys[keyid] for keyid in role.keyids})
        delegations.roles[name] = delegated_role(name, role)
        return True

    def redelegate(self) -> dict[str, Targets]:
        """Give every name to the targets keys of the root: all that these must sign anew."""
        role = self.root.signed.roles["targets"]
        names = self.names
        self.targets.delegations = Delegations(
            keys={keyid: self.root.signed.keys[keyid] for keyid in role.keyids} if names else {},
            roles={name: delegated_role(name, role) for name in names},
        )
        return {"targets": self.targets} | {name: self.releases(name) for name in names}

    def sign(
        self,
        changed: Mapping[str, Targets],
        signers: Mapping[str, Signer],
        moment: datetime,
        addresses: Sequence[str],
        new_root: bytes | None = None,
    ) -> dict[str, bytes]:
        """The next files, by name, in the order in which they must be written.

        changed: roles of the targets keys, by role; each gets its next version and a new life.
        new_root: the file of `root` if it is new.
        Raises WrongSigner if a signer is lacking.
        """
        files: dict[str, bytes] = {}
        root = self.root.signed
        target_keys = [root.keys[keyid] for keyid in root.roles["targets"].keyids]
        for role, signed in changed.items():
            signed.version += 1
            signed.expires = moment + TARGETS_LIFETIME
            data = signed_file(signed, target_keys, root.roles["targets"].threshold, signers)
            files[metadata_file(role, signed.version)] = data
            self.snapshot.meta[metadata_file(role)] = meta_file(signed.version, data)

        online_keys = [root.keys[keyid] for keyid in root.roles["timestamp"].keyids]
        is_aging = self.snapshot.expires - moment < ONLINE_LIFETIME / 2
        if changed or new_root is not None or is_aging:
            self.snapshot.version += 1
            self.snapshot.expires = moment + ONLINE_LIFETIME
            data = signed_file(self.snapshot, online_keys, 1, signers)
            files[metadata_file("snapshot", self.snapshot.version)] = data
            self.timestamp.snapshot_meta = meta_file(self.snapshot.version, data)
        if new_root is not None:
            files[metadata_file("root", root.version)] = new_root
        self._date_timestamp(moment, addresses)
        files[metadata_file("timestamp")] = signed_file(self.timestamp, online_keys, 1, signers)
        self._check(files)
        return files

    @property
    def _delegations(self) -> Delegations:
        assert self.targets.delegations is not None  # the profile requires them
        return self.targets.delegations

    def _date_timestamp(self, moment: datetime, addresses: Sequence[str]) -> None:
        self.timestamp.version += 1
        self.timestamp.expires = moment + ONLINE_LIFETIME
        usable = [address for address in addresses if is_address(address)]
        self.timestamp.unrecognized_fields[FIELD] = {
            "v": FIELD_VERSION,
            "root_version": self.root.version,
            "fresh_until": instant_text(moment + FRESH_FOR),
            "peers": usable[:ADDRESSES_PER_PEER_MAX],
        }

    def _check(self, files: Mapping[str, bytes]) -> None:
        """Read `files` as a follower would: nothing is published that would be refused."""
        for file_name, data in files.items():
            version, _, role = file_name.removesuffix(".json").rpartition(".")
            if not version:
                verify_signatures(read_timestamp(data), self.root.signed)
            elif role == "snapshot":
                verify_signatures(read_snapshot(data), self.root.signed)
            elif role == "targets":
                verify_signatures(read_targets(data), self.root.signed)
            elif role != "root":
                read_releases(file_name.removesuffix(".json").partition(".")[2], data)
