"""Object records and segments: how a file's bytes are named.

A file of more than one chunk has an object record: the chunking rule, the size, the SHA-256 and the
list of segments. A segment is one page of the chunk list: packed digests and lengths. Both are
chunks themselves, named by their BLAKE3, so whoever holds the object's name can verify every page
and every chunk without trusting anyone.

Source: SPEC.md section 4. The chunk list takes the place of a Merkle tree's inner nodes.
"""

from __future__ import annotations

import re
import struct
from array import array
from dataclasses import dataclass
from itertools import accumulate

from p2phub.digest import DIGEST_BYTES, Digest, digest
from p2phub.errors import MalformedDocument
from p2phub.proto.codec import Value, decode, encode
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    OBJECT_BYTES_MAX,
    OBJECT_SEGMENTS_MAX,
    SEGMENT_CHUNKS_MAX,
)

TENSOR_RULE = "tensor-1m/1"
CDC_RULE = "cdc-16k/1"
RULES = (CDC_RULE, TENSOR_RULE)

# Control characters, zero-width and directional ones: nothing that could mislead a terminal.
_INVISIBLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]"
)

_LAST_FIELDS = re.compile(rb"\xa4type[\xa0-\xbf]([ -~]+)\xa1v.\Z", re.DOTALL)
_LAST_FIELDS_BYTES_MAX = 40  # a type is a short text

OBJECT_TYPE = "p2phub/object"
SEGMENT_TYPE = "p2phub/segment"


@dataclass(frozen=True, slots=True)
class Segment:
    """One page of an object's chunk list: at most SEGMENT_CHUNKS_MAX entries (digest, length)."""

    digests: bytes  # 32 bytes per chunk
    lengths: array[int]  # bytes per chunk, 1 to CHUNK_BYTES_MAX, type code "I"

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def data_size(self) -> int:
        """Bytes of the file that this page covers."""
        return sum(self.lengths)

    def digest_of(self, index: int) -> Digest:
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def offsets(self) -> array[int]:
        """Where each chunk begins within the page, and the end: len + 1 numbers, type code "Q"."""
        return array("Q", accumulate(self.lengths, initial=0))

    def encode(self) -> bytes:
        lengths = struct.pack(f">{len(self.lengths)}I", *self.lengths)
        return encode({"digests": self.digests, "lengths": lengths, "type": SEGMENT_TYPE, "v": 1})

    @classmethod
    def decode(cls, data: bytes) -> Segment:
        """Raises MalformedDocument or TooLarge."""
        fields = document(data, SEGMENT_TYPE, ("digests", "lengths"), DOCUMENT_BYTES_MAX)
        digests, packed = octets(fields, "digests"), octets(fields, "lengths")
        count = len(packed) // 4
        if (
            not 1 <= count <= SEGMENT_CHUNKS_MAX
            or len(packed) != 4 * count
            or len(digests) != 32 * count
        ):
            raise MalformedDocument("a segment's lists do not fit each other")
        lengths = array("I", struct.unpack(f">{count}I", packed))
        if min(lengths) < 1 or max(lengths) > CHUNK_BYTES_MAX:
            raise MalformedDocument("a segment lists a chunk of impossible length")
        return cls(digests, lengths)


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """What an object record says of one segment."""

    digest: Digest
    size: int  # bytes of the segment document itself
    chunk_count: int
    data_size: int  # bytes of the file that it covers


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """The root of one file's chunk list. Its BLAKE3 is the object's name."""

    rule: str  # one of RULES
    size: int  # bytes of the file
    sha256: bytes  # of the whole file: a claim until recomputed
    segments: tuple[SegmentRef, ...]

    @property
    def chunk_count(self) -> int:
        return sum(segment.chunk_count for segment in self.segments)

    def encode(self) -> bytes:
        rows: list[Value] = [[s.digest, s.size, s.chunk_count, s.data_size] for s in self.segments]
        return encode(
            {
                "rule": self.rule,
                "segments": rows,
                "sha256": self.sha256,
                "size": self.size,
                "type": OBJECT_TYPE,
                "v": 1,
            }
        )

    @property
    def digest(self) -> Digest:
        return digest(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> ObjectRecord:
        """Raises MalformedDocument or TooLarge."""
        fields = document(
            data, OBJECT_TYPE, ("rule", "segments", "sha256", "size"), DOCUMENT_BYTES_MAX
        )
        rule = text(fields, "rule")
        if rule not in RULES:
            raise MalformedDocument(
                f"an object uses a chunking rule unknown to this version: {rule[:40]!r}"
            )
        segments = tuple(_segment_ref(row) for row in rows(fields, "segments"))
        record = cls(
            rule,
            number(fields, "size", 1, OBJECT_BYTES_MAX),
            octets(fields, "sha256", DIGEST_BYTES),
            segments,
        )
        if len(segments) > OBJECT_SEGMENTS_MAX:
            raise MalformedDocument("an object lists more segments than one can have")
        if record.chunk_count < 2 or sum(s.data_size for s in segments) != record.size:
            raise MalformedDocument("an object's segments do not add up to its size")
        return record


def _segment_ref(row: Value) -> SegmentRef:
    match row:
        case [bytes(name), int(size), int(chunk_count), int(data_size)] if (
            len(name) == DIGEST_BYTES
            and are_numbers(size, chunk_count, data_size)
            and 0 < size <= DOCUMENT_BYTES_MAX
            and 0 < chunk_count <= SEGMENT_CHUNKS_MAX
            and chunk_count <= data_size <= chunk_count * CHUNK_BYTES_MAX
        ):
            return SegmentRef(name, size, chunk_count, data_size)
    raise MalformedDocument("an object lists a segment that cannot be")


# ---- fields of a document, checked --------------------------------------------------------------


def document_type(data: bytes) -> str:
    """The type that a document states, or "" if it states none; nothing else of it is checked.

    Keys are in order, and no document has one behind `type` and `v`: they are its last bytes.
    """
    found = _LAST_FIELDS.search(data[-_LAST_FIELDS_BYTES_MAX:])
    return found[1].decode("ascii") if found else ""


def document(data: bytes, kind: str, keys: tuple[str, ...], size_max: int) -> dict[str, Value]:
    """The fields of a canonical document of type `kind`, version 1, with exactly `keys` beside
    `type` and `v`.

    Raises MalformedDocument. A key that this version doesn't know is refused: new keys need a new
    version.
    """
    value = decode(data, size_max=size_max)
    if not isinstance(value, dict) or value.get("type") != kind:
        raise MalformedDocument(f"not a {kind} document")
    version = value.get("v")
    if version != 1 or isinstance(version, bool):
        raise MalformedDocument(
            f"{kind} version {version!r:.20} is not known to this p2phub: upgrade it"
        )
    if set(value) != {*keys, "type", "v"}:
        raise MalformedDocument(f"a {kind} document lacks a key or has one unknown to version 1")
    return value


def octets(fields: dict[str, Value], key: str, length: int | None = None) -> bytes:
    value = fields[key]
    if not isinstance(value, bytes) or (length is not None and len(value) != length):
        raise MalformedDocument(f"{key}: not a byte string of the right length")
    return value


def text(fields: dict[str, Value], key: str, bytes_max: int = 256) -> str:
    value = fields[key]
    if not isinstance(value, str) or len(value.encode("utf-8")) > bytes_max:
        raise MalformedDocument(f"{key}: not a text of at most {bytes_max} bytes")
    if _INVISIBLE.search(value):
        raise MalformedDocument(f"{key}: a text with control or invisible characters")
    return value


def number(fields: dict[str, Value], key: str, low: int, high: int) -> int:
    value = fields[key]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise MalformedDocument(f"{key}: not a whole number from {low} to {high}")
    return value


def are_numbers(*values: int) -> bool:
    """Whether no value is True or False, which Python takes for 1 and 0 and the format does not."""
    return not any(isinstance(value, bool) for value in values)


def rows(fields: dict[str, Value], key: str) -> list[Value]:
    value = fields[key]
    if not isinstance(value, list):
        raise MalformedDocument(f"{key}: not a list")
    return value
