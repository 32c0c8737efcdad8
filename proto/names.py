"""What people type to name things: publishers, petnames, releases, versions, references to them.

    bafk…                                       content id of a manifest, an object or a chunk
    sha256:<64 hex>                             a file by the digest that other hubs show
    petname/name[@version]                      a release of a publisher this user named
    <publisher id>/name[@version]               a release of anyone's, as `p2phub ls` shows it
    p2phub://<publisher id>/name[@version][?peer=<multiaddr>]…    anyone's, with places to ask

Only these forms, only whole: an id that was shortened or re-encoded is refused, since a near miss
is how one name is passed off as another. Whether a version is PEP 440 is decided in
core/trust/versions.py; here it is only bounded text.

Source: SPEC.md, references; multiformats multibase (base32 lower, no padding) and multihash
(sha2-256).
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from p2phub.errors import UnknownReference
from p2phub.proto.content_id import content_id_text, parse_content_id
from p2phub.proto.limits import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_PER_PEER_MAX,
    NAME_LENGTH_MAX,
    PETNAME_LENGTH_MAX,
    REFERENCE_LENGTH_MAX,
    VERSION_LENGTH_MAX,
)

SCHEME: Final = "p2phub://"
LATEST: Final = "latest"  # what a person may write for "no version given"; never stored anywhere

_MULTIHASH_SHA256: Final = bytes((0x12, 0x20))  # sha2-256, 32 bytes
_PUBLISHER_ID_LENGTH: Final = 56  # "b" and 34 bytes in base32
_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?", re.ASCII)
_PETNAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_VERSION: Final = re.compile(r"[A-Za-z0-9.!+_-]+", re.ASCII)
_ADDRESS: Final = re.compile(r"/[!-~]+", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# TUF's own roles, whose files would have the same names as a model's, and what Windows takes for
# devices.
_NAMES_RESERVED: Final = frozenset(
    {"root", "targets", "snapshot", "timestamp", "con", "prn", "aux", "nul"}
    | {f"{device}{digit}" for device in ("com", "lpt") for digit in range(10)}
)
_FORMS: Final = (
    "use a content id (bafk…), sha256:<64 hex>, petname/name[@version] "
    "or p2phub://<publisher id>/name[@version]"
)


@dataclass(frozen=True, slots=True)
class ContentReference:
    """A manifest, an object or a chunk by the digest of its bytes."""

    digest: bytes  # 32 bytes of BLAKE3

    def __str__(self) -> str:
        return content_id_text(self.digest)


@dataclass(frozen=True, slots=True)
class FileReference:
    """A whole file by its SHA-256."""

    sha256: bytes  # 32 bytes

    def __str__(self) -> str:
        return f"sha256:{self.sha256.hex()}"


@dataclass(frozen=True, slots=True)
class PetnameReference:
    """A release of a publisher by the name that this user gave that publisher."""

    petname: str
    name: str
    version: str | None  # None: the latest

    def __str__(self) -> str:
        return f"{self.petname}/{_with_version(self.name, self.version)}"


@dataclass(frozen=True, slots=True)
class ReleaseReference:
    """A release of a publisher by the publisher's full id, with peers that may be asked first."""

    publisher_id: str
    name: str
    version: str | None  # None: the latest
    peers: tuple[str, ...] = ()  # multiaddrs, as hints

    def __str__(self) -> str:
        link = f"{SCHEME}{self.publisher_id}/{_with_version(self.name, self.version)}"
        return link + _peers_text(self.peers)


@dataclass(frozen=True, slots=True)
class PublisherReference:
    """A publisher by the full id, with peers that may be asked first."""

    publisher_id: str
    peers: tuple[str, ...] = ()  # multiaddrs, as hints

    def __str__(self) -> str:
        return f"{SCHEME}{self.publisher_id}{_peers_text(self.peers)}"


Reference: TypeAlias = ContentReference | FileReference | PetnameReference | ReleaseReference


def parse_reference(text: str) -> Reference:
    """What `text` names. Raises UnknownReference, which tells the accepted forms."""
    if not 0 < len(text) <= REFERENCE_LENGTH_MAX:
        raise _unknown(text, f"is empty or longer than {REFERENCE_LENGTH_MAX} characters")
    if text.startswith(SCHEME):
        return _parse_link(text)
    if text.startswith("sha256:"):
        hexadecimal = text.removeprefix("sha256:")
        if not _SHA256.fullmatch(hexadecimal):
            raise _unknown(text, "does not have 64 lower-case hexadecimal digits after sha256:")
        return FileReference(bytes.fromhex(hexadecimal))
    if "/" not in text:
        return ContentReference(parse_content_id(text))
    petname, _, rest = text.partition("/")
    name, version = _parse_name_and_version(text, rest)
    if len(petname) == _PUBLISHER_ID_LENGTH:  # no petname is so long
        return ReleaseReference(_checked_publisher_id(petname), name, version)
    if not is_petname(petname):
        raise _unknown(
            text, "does not begin with a petname of ASCII letters, digits, '.', '_', '-'"
        )
    return PetnameReference(petname, name, version)


def parse_publisher(text: str) -> PublisherReference:
    """A publisher named by the bare id, `p2phub:<id>` or `p2phub://<id>[?peer=…]`.

    Raises UnknownReference for anything else, also for an id that is shortened by one character.
    """
    if not 0 < len(text) <= REFERENCE_LENGTH_MAX:
        raise _unknown(text, f"is empty or longer than {REFERENCE_LENGTH_MAX} characters")
    if text.startswith(SCHEME):
        publisher, peers = _split_peers(text)
        return PublisherReference(_checked_publisher_id(publisher), peers)
    return PublisherReference(_checked_publisher_id(text.removeprefix("p2phub:")))


def publisher_id_text(sha256: bytes) -> str:
    """The id for the SHA-256 of a first root's signed bytes: 56 characters, first `bciq`."""
    assert len(sha256) == 32
    raw = base64.b32encode(_MULTIHASH_SHA256 + sha256).decode("ascii")
    return "b" + raw.rstrip("=").lower()


def parse_publisher_id(text: str) -> bytes:
    """The SHA-256 a publisher id stands for. Raises UnknownReference unless it has our one form."""
    try:
        if len(text) != _PUBLISHER_ID_LENGTH or not text.isascii() or text != text.lower():
            raise ValueError
        raw = base64.b32decode(text[1:].upper() + "=")
        # Encoding it again refuses other bases, other hashes and stray bits in the last character.
        if raw[:2] != _MULTIHASH_SHA256 or publisher_id_text(raw[2:]) != text:
            raise ValueError
    except (ValueError, binascii.Error, AssertionError):
        raise UnknownReference(
            f"{text[:80]!a} is not a publisher id: they have 56 characters and begin with bciq; "
            "copy the whole id",
            reference=text[:200],
        ) from None
    return raw[2:]


def is_name(text: str) -> bool:
    """Whether `text` can name a release: what the Hub allows, less what some system misreads."""
    return (
        len(text) <= NAME_LENGTH_MAX
        and _NAME.fullmatch(text) is not None
        and ".." not in text
        and "--" not in text
        and not text.lower().endswith(".git")
        and text.lower().partition(".")[0] not in _NAMES_RESERVED
    )


def is_petname(text: str) -> bool:
    """Whether `text` can be a petname. ASCII alone: no letter of another script can pose as one."""
    return len(text) <= PETNAME_LENGTH_MAX and _PETNAME.fullmatch(text) is not None


def is_version_text(text: str) -> bool:
    """Whether `text` has only the characters, and no more of them, than a version may have."""
    return len(text) <= VERSION_LENGTH_MAX and _VERSION.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """Whether `text` could be a multiaddr: bounded printable ASCII that begins with a slash."""
    return len(text) <= ADDRESS_BYTES_MAX and _ADDRESS.fullmatch(text) is not None


def _parse_link(text: str) -> ReleaseReference:
    path, peers = _split_peers(text)
    publisher, slash, rest = path.partition("/")
    if not slash:
        raise _unknown(text, "names a publisher but no release: add /name")
    name, version = _parse_name_and_version(text, rest)
    return ReleaseReference(_checked_publisher_id(publisher), name, version, peers)


def _split_peers(text: str) -> tuple[str, tuple[str, ...]]:
    """What stands before `?` in a link, without the scheme, and the peers named after it."""
    path, question, query = text.removeprefix(SCHEME).partition("?")
    if not question:
        return path, ()
    peers: list[str] = []
    for field in query.split("&", ADDRESSES_PER_PEER_MAX):
        key, _, value = field.partition("=")
        try:
            address = unquote_to_bytes(value).decode("ascii")
        except UnicodeDecodeError:
            raise _unknown(text, "has a peer address that is not ASCII") from None
        if key != "peer" or not is_address(address):
            raise _unknown(text, "has something other than ?peer=<multiaddr> after the name")
        peers.append(address)
    if len(peers) > ADDRESSES_PER_PEER_MAX:
        raise _unknown(text, f"names more than {ADDRESSES_PER_PEER_MAX} peers")
    return path, tuple(peers)


def _parse_name_and_version(text: str, rest: str) -> tuple[str, str | None]:
    name, at, version = rest.partition("@")
    if not is_name(name):
        raise _unknown(text, "does not hold a release name of ASCII letters, digits, '.', '_', '-'")
    if not at or version == LATEST:
        return name, None
    if not is_version_text(version):
        raise _unknown(text, "does not have a version after '@'")
    return name, version


def _checked_publisher_id(text: str) -> str:
    parse_publisher_id(text)
    return text


def _with_version(name: str, version: str | None) -> str:
    return name if version is None else f"{name}@{version}"


def _peers_text(peers: tuple[str, ...]) -> str:
    return "?" + "&".join(f"peer={quote(peer, safe='/:')}" for peer in peers) if peers else ""


def _unknown(text: str, reason: str) -> UnknownReference:
    return UnknownReference(f"{text[:80]!a} {reason}; {_FORMS}", reference=text[:200])
