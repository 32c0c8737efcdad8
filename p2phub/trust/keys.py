"""A publisher's private keys on disk: Ed25519, one file and one purpose each.

    root.pem        encrypted   signs root.json: who signs what
    next-root.pem   encrypted   signs nothing until the next root; best kept elsewhere
    targets.pem     encrypted   signs releases
    online.pem      plain 0600  signs snapshot and timestamp, daily, in the daemon

Whoever steals the online key can delay news until the last timestamp expires and can sign no
release. Whoever steals root.pem and targets.pem can sign releases, until the owner rotates with
next-root.pem, which the thief does not have.

Encrypted files are PKCS#8 with scrypt and AES-256, which `openssl pkey` reads too. (The library's
own writer stretches a passphrase 2,048 times only, which is minutes of work for a thief.) No
publisher key is ever a peer key.

Source: RFC 5958, RFC 8018 (PBES2), RFC 7914 (scrypt).
"""

from __future__ import annotations

import base64
import os
import stat
from enum import Enum
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from p2phub.durable import make_folder, write_durably
from p2phub.errors import BadPassphrase, BadSigningKey, UnsafeKeyFile, WrongPassphrase
from p2phub.paths import signing_key

PASSPHRASE_LENGTH_MIN: Final = 8
KEY_FILE_BYTES_MAX: Final = 16 * 1024  # a PEM file of a 32-byte key has some 400

# 16 MiB and five passes, 0.2 s: the most memory that `openssl pkey` grants, and OWASP's choice for
# it.
_SCRYPT_N: Final = 1 << 14
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 5
_SALT_BYTES: Final = 16
_PBES2: Final = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT: Final = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES_256_CBC: Final = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42
_INTEGER, _OCTETS, _OBJECT_ID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30


class KeyRole(Enum):
    """What a key is for; the value is its file's name without `.pem`."""

    ROOT = "root"
    NEXT_ROOT = "next-root"
    TARGETS = "targets"
    ONLINE = "online"


def key_file(folder: Path, role: KeyRole) -> Path:
    """Where the key for `role` lies in a publisher's key folder."""
    return signing_key(folder, role.value)


def create_keys(folder: Path, passphrase: str) -> dict[KeyRole, CryptoSigner]:
    """Make a publisher's four keys and write them to `folder` (0700), durably.

    Existing files are never replaced. Raises BadPassphrase, FileExistsError.
    """
    check_passphrase(passphrase)
    make_folder(folder, mode=0o700)
    signers = {role: create_key(folder, role, passphrase) for role in KeyRole}
    os.chmod(folder, 0o700)
    return signers


def create_key(folder: Path, role: KeyRole, passphrase: str) -> CryptoSigner:
    """Make one key and write its file (0600), encrypted unless it is the online key."""
    path = key_file(folder, role)
    if path.exists():
        raise FileExistsError(f"{path} exists; a key that was used is never replaced")
    private_key = Ed25519PrivateKey.generate()
    if role is KeyRole.ONLINE:
        pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    else:
        check_passphrase(passphrase)
        pem = _encrypted_pem(private_key, passphrase)
    write_durably(path, pem, mode=0o600)
    return CryptoSigner(private_key)


def load_key(path: Path, passphrase: str | None = None) -> CryptoSigner:
    """The signer in a key file.

    passphrase: None for the online key.
    Raises UnsafeKeyFile if others can read it, WrongPassphrase, BadSigningKey, FileNotFoundError.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise UnsafeKeyFile(
                f"{path} can be read by others: run chmod 600 {path}", path=str(path)
            )
        pem = file.read(KEY_FILE_BYTES_MAX)
    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise WrongPassphrase(f"{path} is encrypted: give its passphrase", path=str(path))
    secret = passphrase.encode("utf-8") if encrypted and passphrase else None
    try:
        private_key = load_pem_private_key(pem, secret)
    except ValueError as error:
        # One wrong passphrase in 256 decrypts to padding that looks right, and then to no key.
        if encrypted:
            raise WrongPassphrase(f"the passphrase does not open {path}", path=str(path)) from error
        raise BadSigningKey(f"{path} cannot be read as a private key", path=str(path)) from error
    if not isinstance(private_key, Ed25519PrivateKey):
        raise BadSigningKey(f"{path} holds another kind of key than Ed25519", path=str(path))
    return CryptoSigner(private_key)


def check_passphrase(passphrase: str) -> None:
    """Raises BadPassphrase if `passphrase` is too short to protect a key."""
    if len(passphrase) < PASSPHRASE_LENGTH_MIN:
        raise BadPassphrase(f"a passphrase needs at least {PASSPHRASE_LENGTH_MIN} characters")


def _encrypted_pem(private_key: Ed25519PrivateKey, passphrase: str) -> bytes:
    """PKCS#8 EncryptedPrivateKeyInfo with PBES2: scrypt, then AES-256 in CBC mode."""
    plain = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, start = os.urandom(_SALT_BYTES), os.urandom(algorithms.AES.block_size // 8)
    stretch = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    encryptor = Cipher(
        algorithms.AES(stretch.derive(passphrase.encode("utf-8"))), modes.CBC(start)
    ).encryptor()
    padder = PKCS7(algorithms.AES.block_size).padder()
    sealed = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()

    costs = b"".join(_der_integer(cost) for cost in (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P))
    derivation = _der(
        _SEQUENCE, _der(_OBJECT_ID, _SCRYPT) + _der(_SEQUENCE, _der(_OCTETS, salt) + costs)
    )
    cipher = _der(_SEQUENCE, _der(_OBJECT_ID, _AES_256_CBC) + _der(_OCTETS, start))
    scheme = _der(_SEQUENCE, _der(_OBJECT_ID, _PBES2) + _der(_SEQUENCE, derivation + cipher))
    document = _der(_SEQUENCE, scheme + _der(_OCTETS, sealed))
    label = b"ENCRYPTED PRIVATE KEY"
    body = base64.encodebytes(document)
    return b"-----BEGIN " + label + b"-----\n" + body + b"-----END " + label + b"-----\n"


def _der(tag: int, content: bytes) -> bytes:
    """One DER value; lengths up to 65,535 are all that a 32-byte key needs."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def _der_integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))
