"""Publishers of this home: made, found and unlocked here, in the command's own process.

The daemon never sees a passphrase or a key that signs releases; it gets the signed files.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from p2phub.control.home_folder import prepare_home
from p2phub.durable import sync_folder
from p2phub.errors import BadPassphrase, UsageError
from p2phub.paths import Home
from p2phub.trust.keys import KeyRole, check_passphrase, create_keys, key_file, load_key
from p2phub.trust.publisher import PublisherRepository
from p2phub.trust.signing import RootKeys

PASSPHRASE_BYTES_MAX: Final = 4096


def own_publishers(home: Home) -> list[str]:
    """Ids of the publishers whose repositories are in this home, oldest first."""
    if not home.publishers.is_dir():
        return []
    found = [entry for entry in home.publishers.iterdir() if not entry.name.startswith("new-")]
    return [entry.name for entry in sorted(found, key=lambda entry: entry.stat().st_ctime_ns)]


def choose_publisher(home: Home, wanted: str | None) -> str | None:
    """The publisher to sign as; None where this home has none yet. Raises UsageError."""
    known = own_publishers(home)
    if wanted is not None:
        wanted = wanted.removeprefix("p2phub://").removeprefix("p2phub:")
        if wanted not in known:
            raise UsageError(
                f"this home has no keys of publisher {wanted[:80]!a}: see `p2phub key ls`"
            )
        return wanted
    if len(known) > 1:
        raise UsageError(
            f"this home has {len(known)} publishers: choose one with --publisher", publishers=known
        )
    return known[0] if known else None


def create_publisher(home: Home, passphrase: str) -> str:
    """Make keys and an empty repository; the new publisher's id.

    All or nothing. Raises BadPassphrase.
    """
    check_passphrase(passphrase)
    prepare_home(home)
    for folder in (home.keys, home.publishers):
        folder.mkdir(mode=0o700, exist_ok=True)
    keys = Path(tempfile.mkdtemp(prefix="new-", dir=home.keys))
    repository = Path(tempfile.mkdtemp(prefix="new-", dir=home.publishers))
    try:
        signers = create_keys(keys, passphrase)
        public = {role: signer.public_key for role, signer in signers.items()}
        created = PublisherRepository.create(
            repository,
            RootKeys(
                root=[public[KeyRole.ROOT]],
                next_root=[public[KeyRole.NEXT_ROOT]],
                targets=[public[KeyRole.TARGETS]],
                online=public[KeyRole.ONLINE],
            ),
            signers.values(),
            time.time(),
        )
        # Keys first: a repository without its keys would be a publisher that nobody can be.
        keys.rename(home.publisher_keys(created.publisher_id))
        repository.rename(home.publisher(created.publisher_id))
    except BaseException:
        shutil.rmtree(keys, ignore_errors=True)
        shutil.rmtree(repository, ignore_errors=True)
        raise
    for folder in (home.keys, home.publishers):
        sync_folder(folder)
    return created.publisher_id


class Unlocked:
    """A publisher whose signing key is open in this process."""

    def __init__(self, home: Home, publisher_id: str, passphrase: str) -> None:
        """Raises WrongPassphrase, UnsafeKeyFile, BadSigningKey, UsageError where a key is kept
        elsewhere.
        """
        folder = home.publisher_keys(publisher_id)
        try:
            self._targets = load_key(key_file(folder, KeyRole.TARGETS), passphrase)
            self._online = load_key(key_file(folder, KeyRole.ONLINE))
        except FileNotFoundError as error:
            raise UsageError(
                f"the key {error.filename} is not in this home", path=error.filename
            ) from None
        self._repository = PublisherRepository.open(home.publisher(publisher_id))
        self.publisher_id = publisher_id

    def sign_release(
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
    ) -> dict[str, bytes]:
        """Sign; the files that changed, or all of them where this very release was signed before.

        Raises BadReleaseName, BadVersion, VersionExists.
        """
        changed = self._repository.add_release(
            name,
            version,
            manifest_digest=manifest_digest,
            manifest_length=manifest_length,
            manifest_sha256=manifest_sha256,
            kind=kind,
            license=license,
            addresses=addresses,
            signers=[self._targets, self._online],
            now=time.time(),
        )
        return changed or self._repository.files()

    def files(self) -> dict[str, bytes]:
        """All that a new follower needs."""
        return self._repository.files()


def read_passphrase(file: str | None, *, new: bool) -> str:
    """The passphrase: the first line of a file (`-`: standard input), else asked for on the
    terminal.

    new: asked for twice. Raises BadPassphrase, UsageError where there is neither.
    """
    if file is not None:
        return _first_line(file)
    if not sys.stdin.isatty():
        raise BadPassphrase("no terminal to ask for the passphrase on: give --passphrase-file FILE")
    prompt = "New passphrase for the signing keys" if new else "Passphrase of the signing keys"
    passphrase = click.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True)
    assert isinstance(passphrase, str)
    return passphrase


def _first_line(file: str) -> str:
    try:
        if file == "-":
            data = sys.stdin.buffer.readline(PASSPHRASE_BYTES_MAX)
        else:
            with open(file, "rb") as stream:
                data = stream.readline(PASSPHRASE_BYTES_MAX)
        line = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadPassphrase(f"{file} does not hold UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", path=file) from None
    if not line:
        raise BadPassphrase(f"the first line of {file} is empty")
    return line


def key_rows(home: Home) -> list[dict[str, object]]:
    """What `key ls` shows: publishers, which of their keys are here, and how many releases they
    signed.
    """
    rows: list[dict[str, object]] = []
    for publisher_id in own_publishers(home):
        folder = home.publisher_keys(publisher_id)
        present = [role.value for role in KeyRole if key_file(folder, role).exists()]
        releases = PublisherRepository.open(home.publisher(publisher_id)).releases()
        rows.append(
            {
                "publisher_id": publisher_id,
                "keys": present,
                "folder": str(folder),
                "releases": [f"{release.name}@{release.version}" for release in releases],
            }
        )
    return rows
