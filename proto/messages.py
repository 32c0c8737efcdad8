"""The messages of a session, one frozen dataclass each.

A session is directional: the peer that opened it downloads, the one that accepted it uploads; two
peers that exchange hold two. On the wire a message is a canonical msgpack list: its tag, then its
fields in order. What has the wrong tag, number, type or range of fields is a ProtocolViolation and
ends the session.

Source: SPEC.md section 7.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeAlias

from p2phub.digest import DIGEST_BYTES, Digest
from p2phub.errors import ContentError, ProtocolViolation
from p2phub.proto.codec import Value, decode, encode
from p2phub.proto.limits import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_PER_PEER_MAX,
    AGENT_BYTES_MAX,
    FRAME_BYTES_MAX,
    INDEXES_PER_DELTA_MAX,
    OBJECT_SEGMENTS_MAX,
    PAGES_PER_ASK_MAX,
    PEERS_PER_EXCHANGE_MAX,
    RUNS_PER_SPAN_MAX,
    SPAN_CHUNKS_MAX,
)

TICKET_BYTES = 32
FINGERPRINT_BYTES = 32
REQUEST_ID_MAX = (1 << 32) - 1
PAGE_ENTRIES_MAX = OBJECT_SEGMENTS_MAX  # the longest page: an object record
REQUESTS_MAX = (1 << 16) - 1
PEER_ID_BYTES_MAX = 128

REJECT_NOT_HELD, REJECT_CHOKED, REJECT_BUSY, REJECT_TOO_LARGE = range(1, 5)
BYE_DONE, BYE_PROTOCOL, BYE_BUSY, BYE_SHUTDOWN, BYE_BAD_BYTES = range(1, 6)


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Consecutive entries [start, stop) of one page."""

    page: Digest
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of both ends."""

    agent: str  # program and version, for people
    requests_max: int  # spans the sender of this message accepts at once


@dataclass(frozen=True, slots=True)
class Join:
    """The opener takes part in the swarm of a manifest: tell it peers, offer it spans."""

    manifest: Digest


@dataclass(frozen=True, slots=True)
class Peers:
    """Peer exchange within one swarm: hints, never facts."""

    manifest: Digest
    peers: tuple[tuple[str, tuple[str, ...]], ...]  # (peer id, multiaddrs)


@dataclass(frozen=True, slots=True)
class Ask:
    """Which chunks of these pages do you hold? Deltas follow the answers."""

    pages: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Have:
    """Bit i (byte i // 8, from the high end) tells whether entry i of the page is held.

    No bytes: the page itself is not.
    """

    page: Digest
    bits: bytes


@dataclass(frozen=True, slots=True)
class HaveDelta:
    """Entries of a page that are held since the last word on it."""

    page: Digest
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """Send the chunks of these runs, in order, over the session's byte channel."""

    id: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """No longer wanted; bytes under way may still arrive."""

    id: int


@dataclass(frozen=True, slots=True)
class Reject:
    """A request that will not be served, and why (REJECT_*)."""

    id: int
    code: int


@dataclass(frozen=True, slots=True)
class Choke:
    """No upload slot for you now: requests not yet begun are dropped."""


@dataclass(frozen=True, slots=True)
class Unchoke:
    """You have an upload slot."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Please take these first: nobody else seems to have them."""

    run: Run


@dataclass(frozen=True, slots=True)
class LaneWanted:
    """The opener asks for a lane."""


@dataclass(frozen=True, slots=True)
class LaneTicket:
    """The sender listens: open a TLS socket to my address on this port, pin this certificate, send
    this ticket first.
    """

    ticket: bytes
    fingerprint: bytes  # SHA-256 of the certificate's DER
    port: int  # 0: the sender has no listener; the ticket is good for a span stream only


@dataclass(frozen=True, slots=True)
class LaneRefused:
    """No lane now: use a span stream."""


@dataclass(frozen=True, slots=True)
class Bye:
    """The session ends, and why (BYE_*)."""

    code: int


Message: TypeAlias = (
    Hello
    | Join
    | Peers
    | Ask
    | Have
    | HaveDelta
    | Request
    | Cancel
    | Reject
    | Choke
    | Unchoke
    | Offer
    | LaneWanted
    | LaneTicket
    | LaneRefused
    | Bye
)


def encode_message(message: Message) -> bytes:
    """The payload of one session frame."""
    return encode(_fields(message))


def _fields(message: Message) -> list[Value]:
    match message:
        case Hello(agent, requests_max):
            return ["hello", agent, requests_max]
        case Join(manifest):
            return ["join", manifest]
        case Peers(manifest, peers):
            return ["peers", manifest, [[peer, list(addresses)] for peer, addresses in peers]]
        case Ask(pages):
            return ["ask", list(pages)]
        case Have(page, bits):
            return ["have", page, bits]
        case HaveDelta(page, indexes):
            return ["delta", page, struct.pack(f">{len(indexes)}H", *indexes)]
        case Request(id, runs):
            return ["request", id, [[run.page, run.start, run.stop] for run in runs]]
        case Cancel(id):
            return ["cancel", id]
        case Reject(id, code):
            return ["reject", id, code]
        case Choke():
            return ["choke"]
        case Unchoke():
            return ["unchoke"]
        case Offer(run):
            return ["offer", run.page, run.start, run.stop]
        case LaneWanted():
            return ["lane?"]
        case LaneTicket(ticket, fingerprint, port):
            return ["ticket", ticket, fingerprint, port]
        case LaneRefused():
            return ["no-lane"]
        case Bye(code):
            return ["bye", code]


def decode_message(data: bytes) -> Message:
    """The message in one frame. Raises ProtocolViolation."""
    try:
        value = decode(data, size_max=FRAME_BYTES_MAX)
    except ContentError as error:
        raise ProtocolViolation(f"a session message is unreadable: {error}") from None
    match value:
        case ["hello", agent, requests_max]:
            return Hello(_text(agent, AGENT_BYTES_MAX), _int(requests_max, 1, REQUESTS_MAX))
        case ["join", manifest]:
            return Join(_digest(manifest))
        case ["peers", manifest, peers]:
            return Peers(_digest(manifest), tuple(map(_peer, _list(peers, PEERS_PER_EXCHANGE_MAX))))
        case ["ask", pages]:
            return Ask(tuple(map(_digest, _list(pages, PAGES_PER_ASK_MAX, least=1))))
        case ["have", page, bits]:
            return Have(_digest(page), _bytes(bits, PAGE_ENTRIES_MAX // 8))
        case ["delta", page, indexes]:
            return HaveDelta(_digest(page), _indexes(indexes))
        case ["request", id, runs]:
            return Request(_int(id, 0, REQUEST_ID_MAX), _runs(runs))
        case ["cancel", id]:
            return Cancel(_int(id, 0, REQUEST_ID_MAX))
        case ["reject", id, code]:
            return Reject(_int(id, 0, REQUEST_ID_MAX), _int(code, 1, 255))
        case ["choke"]:
            return Choke()
        case ["unchoke"]:
            return Unchoke()
        case ["offer", *run]:
            return Offer(_run(run))
        case ["lane?"]:
            return LaneWanted()
        case ["ticket", ticket, fingerprint, port]:
            return LaneTicket(
                _octets(ticket, TICKET_BYTES),
                _octets(fingerprint, FINGERPRINT_BYTES),
                _int(port, 0, 65535),
            )
        case ["no-lane"]:
            return LaneRefused()
        case ["bye", code]:
            return Bye(_int(code, 1, 255))
        case [str(tag), *fields]:
            raise _wrong(f"{tag[:20]!a} with {len(fields)} fields is none of this version")
    raise _wrong("not a tagged list")


def _peer(row: Value) -> tuple[str, tuple[str, ...]]:
    match row:
        case [peer, addresses]:
            texts = _list(addresses, ADDRESSES_PER_PEER_MAX)
            return _text(peer, PEER_ID_BYTES_MAX), tuple(
                _text(address, ADDRESS_BYTES_MAX) for address in texts
            )
    raise _wrong("a peer without addresses")


def _runs(value: Value) -> tuple[Run, ...]:
    runs = tuple(map(_run, _list(value, RUNS_PER_SPAN_MAX, least=1)))
    if sum(map(len, runs)) > SPAN_CHUNKS_MAX:
        raise _wrong("a request for more chunks than a span may have")
    return runs


def _run(row: Value) -> Run:
    match row:
        case [page, start, stop]:
            first = _int(start, 0, PAGE_ENTRIES_MAX - 1)
            return Run(_digest(page), first, _int(stop, first + 1, PAGE_ENTRIES_MAX))
    raise _wrong("a run of other than three fields")


def _indexes(value: Value) -> tuple[int, ...]:
    packed = _bytes(value, 2 * INDEXES_PER_DELTA_MAX)
    if not packed or len(packed) % 2:
        raise _wrong("a delta that is empty or cut off")
    indexes: tuple[int, ...] = struct.unpack(f">{len(packed) // 2}H", packed)
    if max(indexes) >= PAGE_ENTRIES_MAX:
        raise _wrong("a delta beyond the longest page")
    return indexes


def _int(value: Value, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _wrong(f"not a number from {low} to {high}")
    return value


def _digest(value: Value) -> Digest:
    return _octets(value, DIGEST_BYTES)


def _octets(value: Value, length: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise _wrong(f"not {length} bytes")
    return value


def _bytes(value: Value, length_max: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > length_max:
        raise _wrong(f"not up to {length_max} bytes")
    return value


def _list(value: Value, count_max: int, least: int = 0) -> list[Value]:
    if not isinstance(value, list) or not least <= len(value) <= count_max:
        raise _wrong(f"not a list of {least} to {count_max}")
    return value


def _text(value: Value, length_max: int) -> str:
    """Printable ASCII: these texts are shown to people and compared, and no address needs more."""
    if (
        not isinstance(value, str)
        or len(value) > length_max
        or not (value.isascii() and value.isprintable())
    ):
        raise _wrong(f"not a text of up to {length_max} printable characters")
    return value


def _wrong(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"a session message is malformed: {what}")
