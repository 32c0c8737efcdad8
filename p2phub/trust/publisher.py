"""A publisher's own TUF repository: a folder of signed files, and the acts that add to it.

    N.root.json        who signs what; all of them are kept
    N.targets.json     which names exist, and whose keys sign for each
    N.<name>.json      the releases of one name
    N.snapshot.json    the version, length and hash of all of the above
    timestamp.json     which snapshot is current; until when; where the publisher's node is

Runs in the command's process, where the keys are unlocked, and for `refresh_timestamp` in the
daemon. A lock file keeps the two apart: two files of one version with different content would be
equivocation, which halts every follower for good. For the same reason a file is on disk before
anybody is given it.

Imports neither trio nor libp2p. Source: TUF specification 4 and 6; SPEC.md, publishers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from securesystemslib.signer import Signer
from tuf.api.metadata import (
    Delegations,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from p2phub.core.trust.freshness import instant, instant_text
from p2phub.core.trust.releases import Attestation, ReleaseStatement, ReleaseStatus
from p2phub.core.trust.versions import normal_version
from p2phub.errors import BadReleaseName, UsageError, VersionExists, WrongSigner
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX
from p2phub.proto.names import is_address, is_name, publisher_id_text
from p2phub.trust.documents import (
    FIELD,
    FIELD_VERSION,
    Document,
    read_releases,
    read_root,
    read_snapshot,
    read_targets,
    read_timestamp,
    release_statements,
    root_commitment,
    verify_signatures,
)
from p2phub.trust.durable import exclusive, make_folder, sync_folder, write_durably
from p2phub.trust.release_records import parse_release_record, release_path, release_record
from p2phub.trust.signing import (
    RootKeys,
    add_signatures,
    by_keyid,
    delegated_role,
    meta_file,
    new_root,
    signed_file,
    signers_of,
)

TARGETS_LIFETIME: Final = timedelta(days=365)
ONLINE_LIFETIME: Final = timedelta(
    days=90
)  # snapshot and timestamp: how long an eclipse can freeze a follower
FRESH_FOR: Final = timedelta(days=7)  # after it, followers warn
VERSIONS_KEPT: Final = (
    2  # of each role's file: a follower in the middle of a refresh still finds the one before
)


class PublisherRepository:
    """The repository in one folder. Every act reads the folder afresh, under its lock."""

    def __init__(self, folder: Path, publisher_id: str) -> None:
        self._folder = folder
        self.publisher_id = publisher_id

    @classmethod
    def create(
        cls, folder: Path, keys: RootKeys, signers: Iterable[Signer], now: datetime | float
    ) -> PublisherRepository:
        """Begin a publisher in an empty or new folder.

        signers: for root (its threshold), targets and online.
        Raises FileExistsError if the folder holds a repository.
        """
        moment = instant(now)
        make_folder(folder)
        with exclusive(folder / "lock"):
            # The timestamp is written last: a root without one was cut off before anybody saw it.
            if (folder / "timestamp.json").exists():
                raise FileExistsError(f"{folder} already holds a publisher's repository")
            by_id = by_keyid(signers)
            root = Metadata(new_root(1, keys, moment))
            add_signatures(root, keys.root, keys.root_threshold, by_id)
            data = root.to_bytes()
            document = read_root(data)
            publisher_id = publisher_id_text(document.payload_sha256)
            targets = Targets(
                expires=moment + TARGETS_LIFETIME,
                targets={},
                delegations=Delegations(keys={}, roles={}),
            )
            repository = cls(folder, publisher_id)
            repository._commit(
                document.signed, {"targets": targets}, by_id, moment, addresses=(), root_file=data
            )
        return repository

    @classmethod
    def open(cls, folder: Path) -> PublisherRepository:
        """The repository in `folder`. Raises FileNotFoundError, TamperedMetadata."""
        first = read_root((folder / "1.root.json").read_bytes())
        return cls(folder, publisher_id_text(first.payload_sha256))

    def add_release(
        self,
        name: str,
        version: str,
        *,
        manifest_digest: bytes,
        manifest_length: int,
        manifest_sha256: bytes,
        kind: str,
        license: str,
        addresses: Sequence[str],
        signers: Iterable[Signer],
        now: datetime | float,
        status: str | ReleaseStatus = ReleaseStatus.ACTIVE,
        reason: str = "",
        attestations: tuple[Attestation, ...] = (),
    ) -> dict[str, bytes]:
        """Sign a release, or a new status of one that exists; returns the files that changed.

        signers: for the targets role and online.
        Raises BadReleaseName, BadVersion, UsageError (a field that followers would refuse),
        VersionExists (same version, other content), WrongSigner (keys of somebody else).
        """
        moment = instant(now)
        normal = normal_version(version)
        wanted = ReleaseStatement(
            publisher_id=self.publisher_id,
            name=name,
            version=normal,
            manifest_digest=manifest_digest,
            manifest_length=manifest_length,
            manifest_sha256=manifest_sha256,
            kind=kind,
            license=license,
            status=ReleaseStatus(status),
            reason=reason,
            root_version=0,
            attestations=attestations,
        )
        _check_statement(wanted)
        by_id = by_keyid(signers)
        with exclusive(self._folder / "lock"):
            root, targets, snapshot = self._root(), self._targets(), self._snapshot()
            self._check_spelling(name, targets.signed)
            changed: dict[str, Targets] = {}
            releases = self._releases(name, snapshot.signed, moment)
            for known in release_statements(self.publisher_id, name, releases, 0):
                if known.version_key != wanted.version_key:
                    continue
                wanted = replace(wanted, version=known.version)
                if known == wanted:
                    return {}
                if replace(wanted, status=known.status, reason=known.reason) != known:
                    raise VersionExists(
                        f"{name}@{known.version} is already published with other content: "
                        "publish under a new version",
                        name=name,
                        version=known.version,
                    )
            path = release_path(name, wanted.version)
            releases.targets[path] = TargetFile.from_dict(release_record(wanted), path)
            releases.expires = moment + TARGETS_LIFETIME
            changed[name] = releases
            if self._delegate(name, root.signed, targets.signed) or (
                targets.signed.expires - moment < TARGETS_LIFETIME / 2
            ):
                targets.signed.expires = moment + TARGETS_LIFETIME
                changed["targets"] = targets.signed
            return self._commit(root.signed, changed, by_id, moment, addresses)

    def refresh_timestamp(
        self, online_signer: Signer, now: datetime | float, addresses: Sequence[str]
    ) -> dict[str, bytes]:
        """Say once more that nothing changed; returns the files that did.

        The daemon does so daily: followers call a publisher stale after FRESH_FOR. The snapshot is
        signed anew when half of its life is over. Raises WrongSigner.
        """
        moment = instant(now)
        with exclusive(self._folder / "lock"):
            root = self._root()
            return self._commit(root.signed, {}, by_keyid([online_signer]), moment, addresses)

    def renew(
        self, signers: Iterable[Signer], now: datetime | float, addresses: Sequence[str]
    ) -> dict[str, bytes]:
        """Sign anew every file of the targets role whose life is half over; returns what changed.

        Called when the targets key is unlocked anyhow, so that a name without news does not expire.
        Raises WrongSigner.
        """
        moment = instant(now)
        with exclusive(self._folder / "lock"):
            root, targets, snapshot = self._root(), self._targets(), self._snapshot()
            assert targets.signed.delegations is not None
            candidates = {"targets": targets.signed} | {
                name: self._releases(name, snapshot.signed, moment)
                for name in targets.signed.delegations.roles or ()
            }
            aging = {
                role: signed
                for role, signed in candidates.items()
                if signed.expires - moment < TARGETS_LIFETIME / 2
            }
            if not aging:
                return {}
            for signed in aging.values():
                signed.expires = moment + TARGETS_LIFETIME
            return self._commit(root.signed, aging, by_keyid(signers), moment, addresses)

    def rotate_root(
        self,
        keys: RootKeys,
        signers: Iterable[Signer],
        now: datetime | float,
        addresses: Sequence[str] = (),
    ) -> dict[str, bytes]:
        """Replace the root, in the way the last one committed to; returns the files that changed.

        keys.root: holds enough of the keys that were next_root until now.
        signers: for the old root, the new root and, where their keys change, targets and online.
        Raises WrongSigner if followers would refuse it.
        """
        moment = instant(now)
        by_id = by_keyid(signers)
        with exclusive(self._folder / "lock"):
            old = self._root()
            new = Metadata(new_root(old.version + 1, keys, moment))
            committed = root_commitment(old.signed)
            known = [
                k for k in committed.keyids if k in by_id and k in new.signed.roles["root"].keyids
            ]
            if len(known) < committed.threshold:
                raise WrongSigner(
                    f"the next root must be signed by {committed.threshold} of the keys that the "
                    f"present one commits to; {len(known)} were given"
                )
            old_keys = [old.signed.keys[keyid] for keyid in old.signed.roles["root"].keyids]
            add_signatures(new, old_keys, old.signed.roles["root"].threshold, by_id)
            add_signatures(new, keys.root, keys.root_threshold, by_id)
            data = new.to_bytes()
            document = read_root(data)
            changed: dict[str, Targets] = {}
            if signers_of(old.signed, "targets") != signers_of(document.signed, "targets"):
                changed = self._redelegated(document.signed, moment)
            return self._commit(document.signed, changed, by_id, moment, addresses, root_file=data)

    def files(self) -> dict[str, bytes]:
        """What a new follower needs, by name: every root, and the current file of each role."""
        with exclusive(self._folder / "lock"):
            root, snapshot = self._root(), self._snapshot()
            names = [f"{version}.root.json" for version in range(1, root.version + 1)]
            names += [
                f"{meta.version}.{file_name}" for file_name, meta in snapshot.signed.meta.items()
            ]
            names += [f"{snapshot.version}.snapshot.json", "timestamp.json"]
            return {name: (self._folder / name).read_bytes() for name in names}

    def releases(self) -> list[ReleaseStatement]:
        """Everything published here, by name, in the order it was published."""
        with exclusive(self._folder / "lock"):
            root, snapshot = self._root(), self._snapshot()
            found: list[ReleaseStatement] = []
            for file_name, meta in snapshot.signed.meta.items():
                name = file_name.removesuffix(".json")
                if name != "targets":
                    document = read_releases(name, self._file(f"{meta.version}.{file_name}"))
                    found += release_statements(
                        self.publisher_id, name, document.signed, root.version
                    )
            return found

    # ---- reading, under the lock ----------------------------------------------------------------

    def _file(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _root(self) -> Document[Root]:
        # The newest root is the highest of an unbroken sequence; a snapshot does not name it.
        version = 1
        while (self._folder / f"{version + 1}.root.json").exists():
            version += 1
        return read_root(self._file(f"{version}.root.json"))

    def _timestamp(self) -> Document[Timestamp]:
        return read_timestamp(self._file("timestamp.json"))

    def _snapshot(self) -> Document[Snapshot]:
        version = self._timestamp().signed.snapshot_meta.version
        return read_snapshot(self._file(f"{version}.snapshot.json"))

    def _targets(self) -> Document[Targets]:
        version = self._snapshot().signed.meta["targets.json"].version
        return read_targets(self._file(f"{version}.targets.json"))

    def _releases(self, name: str, snapshot: Snapshot, moment: datetime) -> Targets:
        meta = snapshot.meta.get(f"{name}.json")
        if meta is None:
            # Version 0 stands for "none yet"; committing counts up from it.
            releases = Targets(expires=moment + TARGETS_LIFETIME, targets={})
            releases.version = 0
            return releases
        return read_releases(name, self._file(f"{meta.version}.{name}.json")).signed

    # ---- writing, under the lock ----------------------------------------------------------------

    def _check_spelling(self, name: str, targets: Targets) -> None:
        assert targets.delegations is not None and targets.delegations.roles is not None
        for known in targets.delegations.roles:
            if known != name and known.lower() == name.lower():
                raise BadReleaseName(
                    f"{name} differs from {known} only in capital letters: use {known}", name=name
                )

    def _delegate(self, name: str, root: Root, targets: Targets) -> bool:
        """Give `name` its role, signed for by the targets keys; False if it has one."""
        delegations = targets.delegations
        assert delegations is not None and delegations.roles is not None
        if name in delegations.roles:
            return False
        role = root.roles["targets"]
        for keyid in role.keyids:
            delegations.keys[keyid] = root.keys[keyid]
        delegations.roles[name] = delegated_role(name, role)
        return True

    def _redelegated(self, root: Root, moment: datetime) -> dict[str, Targets]:
        """The targets and every name's releases, for new targets keys to sign."""
        targets, snapshot = self._targets().signed, self._snapshot().signed
        assert targets.delegations is not None and targets.delegations.roles is not None
        role = root.roles["targets"]
        names = list(targets.delegations.roles)
        targets.delegations = Delegations(
            keys={keyid: root.keys[keyid] for keyid in role.keyids} if names else {},
            roles={name: delegated_role(name, role) for name in names},
        )
        changed = {"targets": targets}
        for name in names:
            changed[name] = self._releases(name, snapshot, moment)
        for signed in changed.values():
            signed.expires = moment + TARGETS_LIFETIME
        return changed

    def _commit(
        self,
        root: Root,
        changed: Mapping[str, Targets],
        signers: Mapping[str, Signer],
        moment: datetime,
        addresses: Sequence[str],
        root_file: bytes | None = None,
    ) -> dict[str, bytes]:
        """Sign and write changed targets roles, snapshot, root and timestamp, in this order.

        The timestamp is the commit: until it is replaced, readers see the state before.
        """
        files: dict[str, bytes] = {}
        first = not (self._folder / "timestamp.json").exists()
        snapshot = Snapshot(version=1, meta={}) if first else self._snapshot().signed
        if first:
            snapshot.version = 0
        target_keys = [root.keys[keyid] for keyid in root.roles["targets"].keyids]
        threshold = root.roles["targets"].threshold
        for role, signed in changed.items():
            if role != "targets" or not first:
                signed.version += 1
            data = signed_file(signed, target_keys, threshold, signers)
            files[f"{signed.version}.{role}.json"] = data
            snapshot.meta[f"{role}.json"] = meta_file(signed.version, data)

        online_keys = [root.keys[keyid] for keyid in root.roles["timestamp"].keyids]
        timestamp = self._next_timestamp(first, root, moment, addresses)
        if changed or root_file is not None or snapshot.expires - moment < ONLINE_LIFETIME / 2:
            snapshot.version += 1
            snapshot.expires = moment + ONLINE_LIFETIME
            data = signed_file(snapshot, online_keys, 1, signers)
            files[f"{snapshot.version}.snapshot.json"] = data
            timestamp.snapshot_meta = meta_file(snapshot.version, data)
        if root_file is not None:
            files[f"{root.version}.root.json"] = root_file
        files["timestamp.json"] = signed_file(timestamp, online_keys, 1, signers)

        self._check(root, files)
        for name, data in files.items():
            write_durably(self._folder / name, data)
        self._prune(root.version, files)
        return files

    def _next_timestamp(
        self, first: bool, root: Root, moment: datetime, addresses: Sequence[str]
    ) -> Timestamp:
        timestamp = Timestamp(version=1) if first else self._timestamp().signed
        if not first:
            timestamp.version += 1
        timestamp.expires = moment + ONLINE_LIFETIME
        usable = [address for address in addresses if is_address(address)]
        timestamp.unrecognized_fields[FIELD] = {
            "v": FIELD_VERSION,
            "root_version": root.version,
            "fresh_until": instant_text(moment + FRESH_FOR),
            "peers": usable[:ADDRESSES_PER_PEER_MAX],
        }
        return timestamp

    def _check(self, root: Root, files: Mapping[str, bytes]) -> None:
        """Read what is about to be written as a follower would: nothing refused is published."""
        for file_name, data in files.items():
            role = file_name.removesuffix(".json").partition(".")[2] or "timestamp"
            if role == "root":
                read_root(data)
            elif role == "timestamp":
                verify_signatures(read_timestamp(data), root)
            elif role == "snapshot":
                verify_signatures(read_snapshot(data), root)
            elif role == "targets":
                verify_signatures(read_targets(data), root)
            else:
                read_releases(role, data)

    def _prune(self, root_version: int, written: Iterable[str]) -> None:
        """Remove files that no follower can still ask for. Roots stay for ever."""
        for file_name in written:
            version, _, role = file_name.removesuffix(".json").partition(".")
            if role and role != "root" and int(version) > VERSIONS_KEPT:
                (self._folder / f"{int(version) - VERSIONS_KEPT}.{role}.json").unlink(
                    missing_ok=True
                )
        sync_folder(self._folder)


def _check_statement(statement: ReleaseStatement) -> None:
    """Raises BadReleaseName or UsageError if followers would refuse `statement`."""
    name = statement.name
    if not is_name(name):
        raise BadReleaseName(f"{name[:120]!a} cannot name a release", name=name[:120])
    path = release_path(name, statement.version)
    try:
        parse_release_record(statement.publisher_id, name, path, release_record(statement), 0)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{name}@{statement.version} cannot be signed: {error}") from error
