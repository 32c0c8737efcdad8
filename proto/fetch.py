"""Requests and answers of /p2phub/chunk/1 and /p2phub/meta/1: small things asked for by name.

Both are one exchange after the other on one stream: the opener sends a frame
(`p2phub.proto.frames`) with a request, the acceptor answers with one reply header per thing asked,
each followed by its bytes. The opener closes its side when it wants no more. Bulk bytes take lanes
instead.

Source: SPEC.md section 9. Metadata file names are those of TUF with consistent snapshots.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from p2phub.digest import DIGEST_BYTES, Digest
from p2phub.errors import ContentError, ProtocolViolation, UnknownReference
from p2phub.proto.codec import Value, decode, encode
from p2phub.proto.frames import NOT_HELD
from p2phub.proto.limits import (
    CHUNK_BYTES_MAX,
    CHUNKS_PER_FETCH_MAX,
    FETCH_BYTES_MAX,
    FETCH_REQUEST_BYTES_MAX,
    ROOT_BYTES_MAX,
    SNAPSHOT_BYTES_MAX,
    TARGETS_BYTES_MAX,
    TIMESTAMP_BYTES_MAX,
)
from p2phub.proto.names import is_name, parse_publisher_id

NOT_NOW = 0xFFFFFFFE  # in the place of a length: held, but this answer is full; ask again

_LENGTH = struct.Struct(">I")
REPLY_HEADER_BYTES = _LENGTH.size

_TIMESTAMP_NAME = "timestamp.json"
_VERSIONED_NAME = re.compile(r"[1-9][0-9]{0,8}\.(?P<role>[A-Za-z0-9._-]{1,128})\.json", re.ASCII)
_ROLE_BYTES_MAX = {
    "root": ROOT_BYTES_MAX,
    "snapshot": SNAPSHOT_BYTES_MAX,
    "targets": TARGETS_BYTES_MAX,
}


@dataclass(frozen=True, slots=True)
class ChunksWanted:
    """The request of /p2phub/chunk/1: send these documents or single chunks, in this order."""

    digests: tuple[Digest, ...]  # 1 to CHUNKS_PER_FETCH_MAX

    def encode(self) -> bytes:
        """The payload of one frame."""
        assert 0 < len(self.digests) <= CHUNKS_PER_FETCH_MAX
        names: list[Value] = list(self.digests)
        return encode(["chunks", names])

    @classmethod
    def decode(cls, data: bytes) -> ChunksWanted:
        """Raises ProtocolViolation."""
        match _fields(data):
            case ["chunks", list(names)] if 0 < len(names) <= CHUNKS_PER_FETCH_MAX:
                digests = tuple(name for name in names if isinstance(name, bytes))
                if len(digests) == len(names) and all(len(d) == DIGEST_BYTES for d in digests):
                    return cls(digests)
        raise ProtocolViolation("a request for chunks is malformed")


@dataclass(frozen=True, slots=True)
class FileWanted:
    """The other request of /p2phub/chunk/1: send what names the file of this SHA-256.

    The answer is its object record, or the file itself where it is one chunk. A record's SHA-256 is
    a claim until the file was hashed.
    """

    sha256: bytes  # 32 bytes

    def encode(self) -> bytes:
        """The payload of one frame."""
        return encode(["file", self.sha256])


def decode_chunk_request(data: bytes) -> ChunksWanted | FileWanted:
    """Either request of /p2phub/chunk/1. Raises ProtocolViolation."""
    match _fields(data):
        case ["file", bytes(sha256)] if len(sha256) == DIGEST_BYTES:
            return FileWanted(sha256)
    return ChunksWanted.decode(data)


@dataclass(frozen=True, slots=True)
class MetaWanted:
    """The request of /p2phub/meta/1: send one file of a publisher's TUF metadata."""

    publisher_id: str
    file_name: str  # timestamp.json or <version>.<role>.json, nothing else

    def encode(self) -> bytes:
        """The payload of one frame.

        Raises UnknownReference or ProtocolViolation for names of another form.
        """
        parse_publisher_id(self.publisher_id)
        metadata_bytes_max(self.file_name)
        return encode(["meta", self.publisher_id, self.file_name])

    @classmethod
    def decode(cls, data: bytes) -> MetaWanted:
        """Raises ProtocolViolation. What it returns is safe as names of a folder and a file."""
        match _fields(data):
            case ["meta", str(publisher_id), str(file_name)]:
                metadata_bytes_max(file_name)
                try:
                    parse_publisher_id(publisher_id)
                except UnknownReference:
                    pass  # the same verdict as for every other malformed request, below
                else:
                    return cls(publisher_id, file_name)
        raise ProtocolViolation("a request for metadata is malformed")


def metadata_bytes_max(file_name: str) -> int:
    """The most bytes a metadata file of this name may have.

    Raises ProtocolViolation if no metadata file can have this name; it is never a path.
    """
    if file_name == _TIMESTAMP_NAME:
        return TIMESTAMP_BYTES_MAX
    found = _VERSIONED_NAME.fullmatch(file_name)
    if found is not None:
        role = found["role"]
        if role in _ROLE_BYTES_MAX:
            return _ROLE_BYTES_MAX[role]
        if is_name(role):  # a delegated role is named after its model or dataset
            return TARGETS_BYTES_MAX
    raise ProtocolViolation(f"{file_name[:80]!a} is not the name of a metadata file")


# ---- answers ------------------------------------------------------------------------------------


def reply_header(length: int | None) -> bytes:
    """What precedes `length` bytes of an answer; None: not held, no bytes follow."""
    assert length is None or 0 < length < NOT_NOW or length == NOT_NOW
    return _LENGTH.pack(NOT_HELD if length is None else length)


def parse_reply_header(data: bytes, *, size_max: int = CHUNK_BYTES_MAX) -> int | None:
    """How many bytes of an answer follow, NOT_NOW for none in this answer, None for not held.

    data: REPLY_HEADER_BYTES bytes. size_max: of what was asked for. Raises ProtocolViolation on a
    length of 0 or over `size_max`, before anything is buffered.
    """
    (length,) = _LENGTH.unpack(data)
    if length == NOT_HELD:
        return None
    if length != NOT_NOW and not 0 < length <= size_max:
        raise ProtocolViolation(
            f"an answer claims {length} bytes; at most {size_max} were asked for"
        )
    return int(length)


@dataclass(slots=True)
class AnswerBudget:
    """How much room one answer of /p2phub/chunk/1 has left; both ends keep the same count.

    Over it the acceptor writes NOT_NOW; an opener that receives more has met a liar.
    """

    left: int = FETCH_BYTES_MAX  # bytes

    def take(self, length: int) -> bool:
        """Whether `length` more bytes fit; if so they are taken."""
        if length > self.left:
            return False
        self.left -= length
        return True


def _fields(data: bytes) -> Value:
    try:
        return decode(data, size_max=FETCH_REQUEST_BYTES_MAX)
    except ContentError as error:
        raise ProtocolViolation(f"a request is unreadable: {error}") from None
