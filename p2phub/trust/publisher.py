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

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import Signer
from tuf.api.metadata import (
    Metadata,
    TargetFile,
    Targets,
)

from p2phub.core.trust.freshness import instant
from p2phub.core.trust.releases import Attestation, ReleaseStatement, ReleaseStatus
from p2phub.core.trust.versions import normal_version
from p2phub.durable import exclusive, failures, make_folder, sync_folder, write_durably
from p2phub.errors import BadReleaseName, UsageError, VersionExists
from p2phub.paths import RepositoryFolder, metadata_file
from p2phub.proto.names import is_name, publisher_id_text
from p2phub.trust.documents import (
    read_root,
    release_statements,
)
from p2phub.trust.release_records import parse_release_record, release_path, release_record
from p2phub.trust.root_chain import check_next_root
from p2phub.trust.signed_state import TARGETS_LIFETIME, SignedState
from p2phub.trust.signing import (
    RootKeys,
    add_signatures,
    by_keyid,
    new_root,
    signers_of,
)

VERSIONS_KEPT: Final = 2  # of a role's file: whoever refreshes right now still finds the one before


class PublisherRepository:
    """The repository in one folder. Every act reads the folder afresh, under its lock."""

    def __init__(self, folder: Path, publisher_id: str) -> None:
        self._folder = RepositoryFolder(folder)
        self.publisher_id = publisher_id

    @classmethod
    def create(
        cls, folder: Path, keys: RootKeys, signers: Iterable[Signer], now: datetime | float
    ) -> PublisherRepository:
        """Begin a publisher in an empty or new folder.

        signers: for root (its threshold), targets and online.
        Raises FileExistsError if the folder holds a repository, WrongSigner.
        """
        moment = instant(now)
        make_folder(folder)
        paths = RepositoryFolder(folder)
        with exclusive(paths.lock):
            # The timestamp is written last: a root without one was cut off before anybody saw it.
            if paths.metadata("timestamp").exists():
                raise FileExistsError(f"{folder} already holds a publisher's repository")
            by_id = by_keyid(signers)
            root = Metadata(new_root(1, keys, moment))
            add_signatures(root, keys.root, keys.root_threshold, by_id)
            data = root.to_bytes()
            document = read_root(data)
            repository = cls(folder, publisher_id_text(document.payload_sha256))
            state = SignedState.begin(paths, document)
            files = state.sign({"targets": state.targets}, by_id, moment, (), new_root=data)
            repository._write(files)
        return repository

    @classmethod
    def open(cls, folder: Path) -> PublisherRepository:
        """The repository in `folder`. Raises FileNotFoundError, TamperedMetadata."""
        first = read_root(RepositoryFolder(folder).metadata("root", 1).read_bytes())
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
        with exclusive(self._folder.lock):
            state = SignedState.read(self._folder)
            is_new_name = state.delegate(name)
            releases = state.releases(name)
            known = self._known(releases, wanted)
            if known is not None:
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
            changed = {name: releases}
            if is_new_name or _is_aging(state.targets, moment):
                changed["targets"] = state.targets
            return self._write(state.sign(changed, by_id, moment, addresses))

    def refresh_timestamp(
        self, online_signer: Signer, now: datetime | float, addresses: Sequence[str]
    ) -> dict[str, bytes]:
        """Say once more that nothing changed; returns the files that did.

        The daemon does so daily: followers call a publisher stale after a week. The snapshot is
        signed anew when half of its life is over. Raises WrongSigner.
        """
        moment = instant(now)
        with exclusive(self._folder.lock):
            state = SignedState.read(self._folder)
            return self._write(state.sign({}, by_keyid([online_signer]), moment, addresses))

    def renew(
        self, signers: Iterable[Signer], now: datetime | float, addresses: Sequence[str]
    ) -> dict[str, bytes]:
        """Sign anew every file of the targets role whose life is half over; returns what changed.

        Called when the targets key is unlocked anyhow, so that a name without news does not expire.
        Raises WrongSigner.
        """
        moment = instant(now)
        with exclusive(self._folder.lock):
            state = SignedState.read(self._folder)
            roles = {name: state.releases(name) for name in state.names}
            roles["targets"] = state.targets
            aging = {role: signed for role, signed in roles.items() if _is_aging(signed, moment)}
            if not aging:
                return {}
            return self._write(state.sign(aging, by_keyid(signers), moment, addresses))

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
        Raises WrongSigner, BrokenRootChain if followers would refuse it.
        """
        moment = instant(now)
        by_id = by_keyid(signers)
        with exclusive(self._folder.lock):
            state = SignedState.read(self._folder)
            old = state.root
            new = Metadata(new_root(old.version + 1, keys, moment))
            old_role = old.signed.roles["root"]
            old_keys = [old.signed.keys[keyid] for keyid in old_role.keyids]
            add_signatures(new, old_keys, old_role.threshold, by_id)
            add_signatures(new, keys.root, keys.root_threshold, by_id)
            data = new.to_bytes()
            state.root = check_next_root(old, data)
            changed: dict[str, Targets] = {}
            if signers_of(old.signed, "targets") != signers_of(state.root.signed, "targets"):
                changed = state.redelegate()
            return self._write(state.sign(changed, by_id, moment, addresses, new_root=data))

    def files(self) -> dict[str, bytes]:
        """What a new follower needs, by name: every root, and the current file of each role."""
        with exclusive(self._folder.lock):
            state = SignedState.read(self._folder)
            wanted = [("root", version) for version in range(1, state.root.version + 1)]
            wanted += [
                (file_name.removesuffix(".json"), meta.version)
                for file_name, meta in state.snapshot.meta.items()
            ]
            wanted.append(("snapshot", state.snapshot.version))
            files = {
                metadata_file(role, version): self._folder.metadata(role, version).read_bytes()
                for role, version in wanted
            }
            timestamp = self._folder.metadata("timestamp").read_bytes()
            return files | {metadata_file("timestamp"): timestamp}

    def releases(self) -> list[ReleaseStatement]:
        """Everything published here, by name, in the order it was published."""
        with exclusive(self._folder.lock):
            state = SignedState.read(self._folder)
            return [
                statement
                for name in state.names
                for statement in release_statements(
                    self.publisher_id, name, state.releases(name), state.root.version
                )
            ]

    def _known(self, releases: Targets, wanted: ReleaseStatement) -> ReleaseStatement | None:
        for known in release_statements(self.publisher_id, wanted.name, releases, 0):
            if known.version_key == wanted.version_key:
                return known
        return None

    def _write(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Put signed files in place, in their order, and remove what no follower asks for now.

        The timestamp comes last and is the commit: until then, readers see the state before. Roots
        stay for ever.
        """
        for file_name, data in files.items():
            write_durably(self._folder.root / file_name, data)
        for file_name in files:
            version, _, role = file_name.removesuffix(".json").partition(".")
            if role and role != "root" and int(version) > VERSIONS_KEPT:
                old = self._folder.metadata(role, int(version) - VERSIONS_KEPT)
                with failures(old):
                    old.unlink(missing_ok=True)
        sync_folder(self._folder.root)
        return files


def _is_aging(signed: Targets, moment: datetime) -> bool:
    return signed.expires - moment < TARGETS_LIFETIME / 2


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
