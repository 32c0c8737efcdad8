"""Who this node is to other nodes: an Ed25519 key pair in a file of its own, never a publisher's
key.

The file holds the 32 bytes of the private key, nothing else, and only its owner may read it.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.peer.id import ID

from p2phub.durable import sync_folder
from p2phub.errors import BadSetting, UnsafeKeyFile
from p2phub.net.base import PeerId

SEED_BYTES = 32  # RFC 8032: an Ed25519 private key


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair and the peer id that follows from it."""

    key_pair: KeyPair
    peer_id: PeerId


def identity_from_seed(seed: bytes) -> Identity:
    """The identity of a given private key; tests and simulations repeat themselves with it."""
    if len(seed) != SEED_BYTES:
        raise BadSetting(f"a peer key is {SEED_BYTES} bytes, not {len(seed)}")
    key_pair = create_new_key_pair(seed)
    return Identity(key_pair, PeerId(ID.from_pubkey(key_pair.public_key).to_base58()))


def load_or_create_identity(path: Path) -> Identity:
    """Read the key in `path`, or make one there: mode 0600, on the disk before it is used.

    Raises UnsafeKeyFile if others may read the file, BadSetting if it is not a key.
    """
    try:
        return identity_from_seed(_read_seed(path))
    except FileNotFoundError:
        _write_seed(path, secrets.token_bytes(SEED_BYTES))
        # Another process may have been first: what is on disk counts.
        return identity_from_seed(_read_seed(path))


def _read_seed(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnsafeKeyFile(
            f"{path} is not used as a key: {error.strerror}", path=str(path)
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
            raise UnsafeKeyFile(
                f"{path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o}),"
                f" so it is not used: chmod 600 {path}",
                path=str(path),
            )
        seed = file.read(SEED_BYTES + 1)
    if len(seed) != SEED_BYTES:
        raise BadSetting(
            f"{path} is not a peer key of {SEED_BYTES} bytes; move it away and a new one is made",
            path=str(path),
        )
    return seed


def _write_seed(path: Path, seed: bytes) -> None:
    """Appear whole or not at all: a name of its own first, then a link that never replaces a
    key.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(seed)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # Another process made one meanwhile, and a key is never replaced.
    finally:
        draft.unlink()
    sync_folder(path.parent)
