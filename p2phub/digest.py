"""BLAKE3 names and SHA-256 sums: the one module that computes either.

A chunk is named by the plain BLAKE3 of its bytes. SHA-256 is what the rest of the world (Hugging
Face, OCI, model signing) calls a file by. Both release the interpreter lock while they hash, so
they run side by side in threads.

Source: BLAKE3 specification 1.0, plain hash mode; FIPS 180-4.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

from blake3 import blake3

Digest: TypeAlias = bytes  # 32 bytes of BLAKE3: the name of a chunk
Octets: TypeAlias = bytes | bytearray | memoryview

DIGEST_BYTES = 32
EMPTY = blake3(b"").digest()  # the name of no bytes at all


def digest(data: Octets) -> Digest:
    """The BLAKE3 name of `data`: 32 bytes."""
    return blake3(data).digest()


def derived_key(purpose: str, material: bytes) -> bytes:
    """32 bytes bound to `purpose` and `material`, for keys that must not collide with chunk names.

    Source: BLAKE3 derive_key mode; `purpose` is a fixed sentence of ours, never user input.
    """
    return blake3(material, derive_key_context=purpose).digest()


def sha256(data: Octets) -> bytes:
    """The SHA-256 of `data`: 32 bytes."""
    return hashlib.sha256(data).digest()


class Sha256:
    """A SHA-256 that is fed piece by piece; `digest()` may be asked at any time."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = hashlib.sha256()

    def update(self, data: Octets) -> None:
        self._state.update(data)

    def digest(self) -> bytes:
        return self._state.digest()


def git_blob_id(data: Octets) -> bytes:
    """The 20 bytes by which git names a file of this content; a name for old tools, never trusted
    here.

    Source: git's object format: SHA-1 of `blob <size>`, a zero byte and the content.
    """
    header = b"blob %d\0" % len(data)
    return hashlib.sha1(header + bytes(data), usedforsecurity=False).digest()


def lfs_pointer(sha256: bytes, size: int) -> bytes:
    """The small file that stands for a large one in git. Source: git-lfs specification v1."""
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{sha256.hex()}\nsize {size}\n"
    ).encode("ascii")


def gear_word(byte: int) -> int:
    """The number that a rolling hash adds for `byte` in `cdc-16k/1`: a constant, not a protection.

    Source: SPEC.md section 4: the first 8 bytes of the MD5 of 64 such bytes, big endian.
    """
    constant = hashlib.md5(bytes([byte]) * 64, usedforsecurity=False).digest()
    return int.from_bytes(constant[:8], "big")
