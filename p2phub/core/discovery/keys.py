"""DHT keys: which keys a name is announced and looked up under.

The first 20 providers of a key are kept by the network and later ones ignored, so whoever fills a
key hides the others. Every name has four keys that share nothing, and both ends use all of them: a
squatter must fill four neighbourhoods.
"""

from __future__ import annotations

from enum import Enum

from p2phub.digest import DIGEST_BYTES, derived_key

KEYS_PER_NAME = 4
_PURPOSE = "p2phub 2026 provider key v1"
_MULTIHASH_SHA256 = b"\x12\x20"  # code and length: what DHT implementations accept as a key


class KeyKind(Enum):
    """What a name is: decides whether it is announced. Its `space` is hashed into the keys."""

    MANIFEST = 1  # content id of a release
    OBJECT = 2  # object record, or the chunk that is a whole file
    CHUNK = 3
    SHA256 = 4  # of a whole file
    PUBLISHER = 5  # publisher id: who serves its metadata

    @property
    def space(self) -> int:
        """Names of one space share their keys: a bare content id does not say which of the first
        three it is.
        """
        return 1 if self in (KeyKind.MANIFEST, KeyKind.OBJECT, KeyKind.CHUNK) else self.value


def provider_keys(kind: KeyKind, name: bytes) -> tuple[bytes, ...]:
    """The keys (32 bytes each) under which providers of `name` (32 bytes) are announced."""
    return tuple(provider_key(kind, name, number) for number in range(KEYS_PER_NAME))


def provider_key(kind: KeyKind, name: bytes, number: int) -> bytes:
    """Key `number` (0 to KEYS_PER_NAME - 1) of a name: 32 bytes."""
    assert len(name) == DIGEST_BYTES and 0 <= number < KEYS_PER_NAME
    return derived_key(_PURPOSE, bytes([kind.space]) + name + bytes([number]))


def multihash(key: bytes) -> bytes:
    """A key in the form that Kademlia messages carry: 34 bytes."""
    assert len(key) == DIGEST_BYTES
    return _MULTIHASH_SHA256 + key
