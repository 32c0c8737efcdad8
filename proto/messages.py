"""The messages of a session, one frozen dataclass each.

A session is directional: the peer that opened it downloads, the one that accepted it uploads; two peers that exchange hold two.
On the wire a message is a canonical msgpack list: its tag, then its fields in order. What has the wrong tag, number, type or
range of fields is a ProtocolViolation and ends the session.

Source: SPEC.md section 7.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from p2phub.digest import DIGEST_BYTES, Digest
from p2phub.errors import ContentError, ProtocolViolation
from p2phub.proto.codec import Value, decode, encode
from p2phub.proto.limits import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_PER_PEER_MAX,
    AGENT_BYTES_MAX,
    FRAME_BYTES_MAX,
    INDEXES_PER_DELTA_MAX,
    PAGES_PER_ASK_MAX,
    PEERS_PER_EXCHANGE_MAX,
    RUNS_PER_SPAN_MAX,
    SEGMENT_CHUNKS_MAX,
    SPAN_CHUNKS_MAX,
)

TICKET_BYTES = 32
FINGERPRINT_BYTES = 32
REQUEST_ID_MAX = (1 << 32) - 1
PAGE_ENTRIES_MAX = 16384  # an object record may list more segments than a segment lists chunks

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
    """Bit i (byte i // 8, from the high end) tells whether entry i of the page is held. No bytes: the page itself is not."""

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
    """The sender listens: open a TLS socket to my address on this port, pin this certificate, send this ticket first."""

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
    Hello | Join | Peers | Ask | Have | HaveDelta | Request | Cancel | Reject | Choke | Unchoke | Offer
    | LaneWanted | LaneTicket | LaneRefused | Bye
)  # fmt: skip

_TAGS: dict[type[Message], str] = {
    Hello: "hello", Join: "join", Peers: "peers", Ask: "ask", Have: "have", HaveDelta: "delta", Request: "request",
    Cancel: "cancel", Reject: "reject", Choke: "choke", Unchoke: "unchoke", Offer: "offer", LaneWanted: "lane?",
    LaneTicket: "ticket", LaneRefused: "no-lane", Bye: "bye",
}  # fmt: skip


def encode_message(message: Message) -> bytes:
    """The payload of one session frame."""
    fields: list[Value] = [_TAGS[type(message)]]
    match message:
        case Request(id, runs):
            fields += [id, [[run.page, run.start, run.stop] for run in runs]]
        case Offer(run):
            fields += [run.page, run.start, run.stop]
        case Peers(manifest, peers):
            fields += [manifest, [[peer, list(addresses)] for peer, addresses in peers]]
        case Ask(pages):
            fields.append(list(pages))
        case HaveDelta(page, indexes):
            packed = array("H", indexes)
            packed.byteswap()
            fields += [page, packed.tobytes()]
        case _:
            fields += [getattr(message, name) for name in message.__slots__]
    return encode(fields)


def decode_message(data: bytes) -> Message:
    """The message in one frame. Raises ProtocolViolation."""
    try:
        value = decode(data, size_max=FRAME_BYTES_MAX)
    except ContentError as error:
        raise ProtocolViolation(f"a session message is unreadable: {error}") from None
    match value:
        case [str(tag), *fields] if tag in _PARSERS:
            try:
                return _PARSERS[tag](*fields)
            except TypeError:
                _wrong(f"{tag} with {len(fields)} fields")
        case [str(tag), *_]:
            _wrong(f"unknown message {tag[:20]!r}")
    _wrong("not a tagged list")


def _hello(agent: Value, requests_max: Value) -> Message:
    if not isinstance(agent, str) or len(agent.encode()) > AGENT_BYTES_MAX:
        _wrong("hello: agent")
    return Hello(agent, _int(requests_max, 1, 65535))


def _join(manifest: Value) -> Message:
    return Join(_digest(manifest))


def _peers(manifest: Value, peers: Value) -> Message:
    found = []
    for row in _list(peers, PEERS_PER_EXCHANGE_MAX):
        match row:
            case [str(peer), list(addresses)] if len(peer) <= 128 and len(addresses) <= ADDRESSES_PER_PEER_MAX:
                found.append((peer, tuple(_address(address) for address in addresses)))
            case _:
                _wrong("peers: a row")
    return Peers(_digest(manifest), tuple(found))


def _ask(pages: Value) -> Message:
    return Ask(tuple(_digest(page) for page in _list(pages, PAGES_PER_ASK_MAX, least=1)))


def _have(page: Value, bits: Value) -> Message:
    if not isinstance(bits, bytes) or len(bits) > PAGE_ENTRIES_MAX // 8:
        _wrong("have: bits")
    return Have(_digest(page), bits)


def _delta(page: Value, indexes: Value) -> Message:
    if not isinstance(indexes, bytes) or len(indexes) % 2 or not 0 < len(indexes) <= 2 * INDEXES_PER_DELTA_MAX:
        _wrong("delta: indexes")
    numbers = array("H", indexes)
    numbers.byteswap()
    return HaveDelta(_digest(page), tuple(numbers))


def _request(id: Value, runs: Value) -> Message:
    parsed = tuple(_run(row) for row in _list(runs, RUNS_PER_SPAN_MAX, least=1))
    if sum(map(len, parsed)) > SPAN_CHUNKS_MAX:
        _wrong("request: more chunks than a span may have")
    return Request(_int(id, 0, REQUEST_ID_MAX), parsed)


def _cancel(id: Value) -> Message:
    return Cancel(_int(id, 0, REQUEST_ID_MAX))


def _reject(id: Value, code: Value) -> Message:
    return Reject(_int(id, 0, REQUEST_ID_MAX), _int(code, 1, 255))


def _choke() -> Message:
    return Choke()


def _unchoke() -> Message:
    return Unchoke()


def _offer(page: Value, start: Value, stop: Value) -> Message:
    return Offer(_run([page, start, stop]))


def _lane_wanted() -> Message:
    return LaneWanted()


def _ticket(ticket: Value, fingerprint: Value, port: Value) -> Message:
    return LaneTicket(
        _octets(ticket, TICKET_BYTES), _octets(fingerprint, FINGERPRINT_BYTES), _int(port, 0, 65535)
    )


def _lane_refused() -> Message:
    return LaneRefused()


def _bye(code: Value) -> Message:
    return Bye(_int(code, 1, 255))


_PARSERS: dict[str, Callable[..., Message]] = {
    "hello": _hello, "join": _join, "peers": _peers, "ask": _ask, "have": _have, "delta": _delta, "request": _request,
    "cancel": _cancel, "reject": _reject, "choke": _choke, "unchoke": _unchoke, "offer": _offer, "lane?": _lane_wanted,
    "ticket": _ticket, "no-lane": _lane_refused, "bye": _bye,
}  # fmt: skip


def _run(row: Value) -> Run:
    match row:
        case [page, start, stop]:
            first, last = _int(start, 0, PAGE_ENTRIES_MAX), _int(stop, 1, PAGE_ENTRIES_MAX)
            if first < last:
                return Run(_digest(page), first, last)
    _wrong("a run")


def _int(value: Value, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        _wrong(f"a number outside {low} to {high}")
    return value


def _digest(value: Value) -> Digest:
    return _octets(value, DIGEST_BYTES)


def _octets(value: Value, length: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        _wrong(f"not {length} bytes")
    return value


def _list(value: Value, count_max: int, least: int = 0) -> list[Value]:
    if not isinstance(value, list) or not least <= len(value) <= count_max:
        _wrong(f"not a list of {least} to {count_max}")
    return value


def _address(value: Value) -> str:
    if not isinstance(value, str) or len(value.encode()) > ADDRESS_BYTES_MAX:
        _wrong("an address")
    return value


def _wrong(what: str) -> NoReturn:
    raise ProtocolViolation(f"a session message is malformed: {what}")


assert SEGMENT_CHUNKS_MAX <= PAGE_ENTRIES_MAX
