"""Content ids: a digest as text that other content-addressed systems can read.

A content id is CIDv1, codec raw (0x55), multihash blake3 (0x1e) of 32 bytes, in multibase base32:
always 59 characters that begin with `bafk`. Only that one form is accepted: no other base, codec,
hash or length.

Source: multiformats CID, multicodec and multibase tables.
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from p2phub.errors import UnknownReference

_PREFIX = bytes((0x01, 0x55, 0x1E, 0x20))  # CIDv1, raw, blake3, 32 bytes
_TEXT_LENGTH = 59


@lru_cache(4096)  # lists of releases are shown again and again
def content_id_text(digest: bytes) -> str:
    """`bafk…` for a 32-byte BLAKE3 digest."""
    assert len(digest) == 32
    return "b" + base64.b32encode(_PREFIX + digest).decode("ascii").rstrip("=").lower()


def parse_content_id(text: str) -> bytes:
    """The digest named by a content id.

    Raises UnknownReference unless `text` is exactly of our one form.
    """
    try:
        if (
            len(text) != _TEXT_LENGTH
            or text[0] != "b"
            or text != text.lower()
            or not text.isascii()
        ):
            raise ValueError
        raw = base64.b32decode(text[1:].upper() + "======")
        if raw[:4] != _PREFIX or content_id_text(raw[4:]) != text:
            raise ValueError
    except (ValueError, binascii.Error, AssertionError):
        raise UnknownReference(
            f"{text[:80]!r} is not a content id: they have 59 characters and begin with bafk",
            reference=text[:200],
        ) from None
    return raw[4:]
