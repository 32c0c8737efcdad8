"""What a command may ask of the daemon: names, parameters read strictly, and the node's methods
behind them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from p2phub.control.protocol import DATA_BYTES_MAX, BadRequest, Json, plain
from p2phub.errors import UsageError
from p2phub.node.api import ROOM_WAIT_S, FetchRequest, NodeApi, ProgressSink, ReleaseTerms
from p2phub.node.exchange_api import ExportRequest, ImportRequest, Tool
from p2phub.node.limits_api import LimitChange
from p2phub.proto.limits import ADDRESSES_PER_PEER_MAX, REFERENCE_LENGTH_MAX
from p2phub.proto.manifest import KINDS
from p2phub.proto.names import (
    PetnameReference,
    ReleaseReference,
    is_address,
    parse_publisher,
    parse_reference,
)

TEXT_LENGTH_MAX: Final = 64 * 1024  # one parameter
LIST_LENGTH_MAX: Final = 256  # entries of one parameter
METADATA_FILES_MAX: Final = 20_000  # in one commit: a name has one file, a publisher 16,384 names


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFacts:
    """What the daemon knows beside its node."""

    version: str
    pid: int
    home: Path
    gateway: str | None  # url; None: switched off
    settings: Json


class Reply(Protocol):
    """Where a method sends what it has before its result."""

    def progress(self, value: object) -> None:
        """Report progress; never blocks, the newest report replaces those not sent yet."""

    async def data(self, chunk: bytes) -> None:
        """Send raw bytes; waits while the client reads slowly."""


class Params:
    """A request's parameters, each taken once and checked.

    Raises BadRequest for what is missing, unknown or of another type.
    """

    def __init__(self, values: object) -> None:
        if not isinstance(values, dict):
            raise BadRequest("params: not an object")
        self._values: dict[str, Any] = dict(values)

    def text(self, name: str, default: str | None = None) -> str:
        value = self._values.pop(name, default)
        if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX:
            raise BadRequest(f"{name}: not a text of at most {TEXT_LENGTH_MAX} characters")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._values.pop(name, [])
        if not isinstance(values, list) or len(values) > LIST_LENGTH_MAX:
            raise BadRequest(f"{name}: not a list of at most {LIST_LENGTH_MAX}")
        if not all(isinstance(value, str) and len(value) <= TEXT_LENGTH_MAX for value in values):
            raise BadRequest(f"{name}: holds something other than short texts")
        return tuple(values)

    def peers(self) -> tuple[str, ...]:
        """Addresses to ask first. Raises UsageError for one that cannot be an address."""
        addresses = self.texts("peers")
        for address in addresses:
            if not is_address(address):
                raise UsageError(f"{address[:80]!a} is not a peer's multiaddr")
        if len(addresses) > ADDRESSES_PER_PEER_MAX:
            raise UsageError(f"more than {ADDRESSES_PER_PEER_MAX} peers were named")
        return addresses

    def path(self, name: str) -> Path | None:
        """An absolute path, or None where it is absent."""
        value = self._values.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, str) or "\0" in value or not value.startswith("/"):
            raise BadRequest(f"{name}: not an absolute path")
        return Path(value)

    def flag(self, name: str) -> bool:
        value = self._values.pop(name, False)
        if not isinstance(value, bool):
            raise BadRequest(f"{name}: neither true nor false")
        return value

    def number(self, name: str, default: int | None = None) -> int | None:
        value = self._values.pop(name, default)
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63
        ):
            raise BadRequest(f"{name}: not a whole number from 0")
        return value

    def optional(self, name: str) -> str | None:
        """A text, or None where it is absent or null."""
        if self._values.get(name) is None:
            self._values.pop(name, None)
            return None
        return self.text(name)

    def files(self, name: str) -> dict[str, bytes]:
        """Files by name, in base64."""
        values = self._values.pop(name, None)
        if not isinstance(values, dict) or len(values) > METADATA_FILES_MAX:
            raise BadRequest(f"{name}: not an object of at most {METADATA_FILES_MAX} files")
        try:
            return {
                str(key): base64.b64decode(value, validate=True) for key, value in values.items()
            }
        except (TypeError, ValueError, binascii.Error):
            raise BadRequest(f"{name}: holds something other than base64") from None

    def done(self) -> None:
        """Raises BadRequest if parameters are left that the method does not know."""
        if self._values:
            raise BadRequest(f"unknown parameters: {', '.join(sorted(self._values))[:200]}")


Method: TypeAlias = Callable[[NodeApi, DaemonFacts, Params, Reply], Awaitable[object]]


async def about(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    return facts


async def identity(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    return await node.identity()


async def status(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    result: Json = plain(await node.status())
    return {**result, "gateway": facts.gateway, "pid": facts.pid, "version": facts.version}


async def publish_prepare(
    node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply
) -> object:
    folder, terms = params.path("folder"), _terms(params)
    params.done()
    if folder is None:
        raise BadRequest("publish_prepare: needs a folder")
    return await node.publish_prepare(folder, terms, _sink(reply))


async def publish_commit(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    publisher_id, name, version = (params.text(key) for key in ("publisher_id", "name", "version"))
    files, petname = params.files("files"), params.text("petname")
    params.done()
    return await node.publish_commit(publisher_id, name, version, files, petname)


async def fetch(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    request = FetchRequest(
        reference=parse_reference(_reference(params)),
        destination=params.path("destination"),
        peers=params.peers(),
        include=params.texts("include"),
        exclude=params.texts("exclude"),
        allow_yanked=params.flag("allow_yanked"),
        room_wait_s=params.number("room_wait_s", int(ROOM_WAIT_S)) or 0,
    )
    params.done()
    return await node.fetch(request, _sink(reply))


async def show(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    reference, peers = parse_reference(_reference(params)), params.peers()
    params.done()
    return await node.show(reference, peers)


async def versions(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    reference, peers = parse_reference(_reference(params)), params.peers()
    params.done()
    if not isinstance(reference, PetnameReference | ReleaseReference):
        raise UsageError(
            "only a name has versions: use petname/name or p2phub://<publisher id>/name"
        )
    return await node.versions(reference, peers)


async def read(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    reference, path = parse_reference(_reference(params)), params.optional("path")
    start, stop, peers = params.number("start", 0), params.number("stop"), params.peers()
    params.done()
    sent = 0
    async with node.read(reference, path, start or 0, stop, peers) as chunks:
        async for chunk in chunks:
            for begin in range(0, len(chunk), DATA_BYTES_MAX):
                await reply.data(chunk[begin : begin + DATA_BYTES_MAX])
            sent += len(chunk)
    return {"bytes": sent}


async def releases(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    return await node.releases()


async def verify(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    reference = parse_reference(_reference(params))
    params.done()
    return await node.verify(reference, _sink(reply))


async def remove(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    reference = parse_reference(_reference(params))
    params.done()
    return await node.upkeep.remove(reference)


async def pin(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    reference, pinned = parse_reference(_reference(params)), params.flag("pinned")
    params.done()
    return await node.upkeep.pin(reference, pinned)


async def collect(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    dry_run = params.flag("dry_run")
    params.done()
    return await node.upkeep.collect(dry_run)


async def scrub(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    return await node.upkeep.scrub(_sink(reply))


async def check(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    repair = params.flag("repair")
    params.done()
    return await node.repairing.check(repair, _sink(reply))


async def export(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    folder = params.path("folder")
    request = ExportRequest(
        reference=parse_reference(_reference(params)),
        tool=_tool(params),
        folder=folder or Path(),
        name=params.text("name", ""),
        hardlink=params.flag("hardlink"),
    )
    params.done()
    if folder is None:
        raise BadRequest("export: needs a folder")
    return await node.exchange.export(request, _sink(reply))


async def take_in(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    folder, terms = params.path("folder"), _terms(params)
    request = ImportRequest(
        tool=_tool(params),
        folder=folder or Path(),
        name=params.text("name", ""),
        revision=params.text("revision", "main"),
        kind=terms.kind,
        keep=params.flag("keep"),
    )
    params.done()
    if folder is None:
        raise BadRequest("take_in: needs a folder")
    return await node.exchange.take_in(request, terms, _sink(reply))


async def limit(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    change = LimitChange(
        down=params.optional("down"),
        up=params.optional("up"),
        peer=params.optional("peer"),
        schedule=params.optional("schedule"),
    )
    params.done()
    return await node.limits.limit(change)


async def peers(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    return await node.peers()


async def connect(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    address = params.text("address")
    params.done()
    return await node.connect(address)


async def bootstrap_list(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    return await node.bootstrap.list()


async def bootstrap_add(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    address = params.text("address")
    params.done()
    return await node.bootstrap.add(address)


async def bootstrap_remove(
    node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply
) -> object:
    address = params.text("address")
    params.done()
    return await node.bootstrap.remove(address)


async def trust_add(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    publisher, petname = params.text("publisher"), params.text("petname")
    params.done()
    return await node.trust.add(parse_publisher(publisher), petname)


async def trust_list(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    params.done()
    return await node.trust.list()


async def trust_remove(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    petname = params.text("petname")
    params.done()
    return await node.trust.remove(petname)


async def trust_reset(node: NodeApi, facts: DaemonFacts, params: Params, reply: Reply) -> object:
    petname = params.optional("petname")
    params.done()
    return await node.trust.reset(petname)


METHODS: Final[dict[str, Method]] = {
    method.__name__: method
    for method in (
        about, identity, status, publish_prepare, publish_commit, fetch, show, versions, read,
        releases, verify, remove, pin, collect, scrub, check, export, take_in, limit, peers,
        connect, bootstrap_list, bootstrap_add, bootstrap_remove, trust_add, trust_list,
        trust_remove, trust_reset,
    )
}  # fmt: skip


def _terms(params: Params) -> ReleaseTerms:
    kind = params.text("kind")
    if kind not in KINDS:
        raise BadRequest("kind: neither model nor dataset")
    return ReleaseTerms(
        kind="dataset" if kind == "dataset" else "model",
        license=params.text("license", ""),
        tags=params.texts("tags"),
        base=params.texts("base"),
        datasets=params.texts("datasets"),
        card=params.text("card", ""),
    )


def _tool(params: Params) -> Tool:
    match params.text("tool"):
        case "folder":
            return "folder"
        case "hf":
            return "hf"
        case "ollama":
            return "ollama"
    raise BadRequest("tool: none of folder, hf and ollama")


def _reference(params: Params) -> str:
    # The bound of the longest reference and some slack, so that the parser says what is wrong.
    return params.text("reference")[: 2 * REFERENCE_LENGTH_MAX]


def _sink(reply: Reply) -> ProgressSink:
    return reply.progress
