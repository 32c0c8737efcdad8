"""What the doors (control socket, gateway) may ask of a node, and the values they get back.

The node implements `NodeApi`; it raises subclasses of P2phubError only; anything else is a bug. No
value here holds payload bytes except `ReadBytes`.

All methods run in the node's trio thread and may be cancelled at any await: what was verified
stays, nothing is half-written.
`progress` callables are called in that thread, must not block, and are called at most ten times a
second per operation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from p2phub.digest import Digest
from p2phub.node.acquaintances_api import BootstrapApi, TrustApi
from p2phub.node.exchange_api import ExchangeApi
from p2phub.node.figures import IdentityView, Metric, PeerView, StatusView
from p2phub.node.limits_api import LimitsApi
from p2phub.node.progress import Progress as Progress
from p2phub.node.progress import ProgressSink as ProgressSink
from p2phub.node.upkeep_api import RepairApi, UpkeepApi
from p2phub.proto.names import PetnameReference, Reference, ReleaseReference

Kind: TypeAlias = Literal["model", "dataset"]
ROOM_WAIT_S = 3600.0  # a fetch waits so long for room, if nobody says otherwise


# ---- publishing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTerms:
    """What a publisher says of a release beside its files; all of it is part of the manifest."""

    kind: Kind
    license: str = ""  # SPDX expression, or "" where unknown
    tags: tuple[str, ...] = ()
    base: tuple[str, ...] = ()  # references to models that this one was made from
    datasets: tuple[str, ...] = ()  # references to what it was trained on
    card: str = ""  # path of the file that describes it; "": README.md where there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A folder taken into the store, ready to be signed. Nothing was announced yet."""

    manifest: Digest  # of the manifest root; the content id
    manifest_length: int  # bytes of the manifest root, for the signed target entry
    manifest_sha256: bytes  # of the manifest root, for the signed target entry
    kind: Kind
    file_count: int
    data_size: int  # bytes of all files
    reused_bytes: int  # of chunks that the store held before
    extra_bytes: int  # that the store takes on the disk beside the user's files
    method: str  # "reflink" or "adopt": how the files were taken
    addresses: tuple[str, ...]  # this node's multiaddrs with /p2p/<id>, for the signed timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A signed release that this node now serves."""

    reference: str  # p2phub://<publisher id>/<name>@<version>?peer=…
    petname: str  # the local name under which it can be read here
    content_id: str
    publisher_id: str
    name: str
    version: str
    announced: int  # keys put into the announce queue


# ---- fetching and looking ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signed a release, as verified here."""

    publisher_id: str
    petname: str | None  # None: this user has not named the publisher
    name: str
    version: str
    status: str  # "active", "deprecated" or "yanked"
    reason: str  # the publisher's words on the status, or ""
    freshness: str  # "fresh", "stale", "expired" or "halted"
    seen_from: int  # peers whose answers agreed


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerShare:
    """What one peer did for a fetch."""

    peer_id: str
    address: str  # multiaddr it was reached at, or ""
    bytes: int  # verified bytes from it
    fault: str = ""  # why it was dropped, or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRequest:
    """What to fetch and where to put it."""

    reference: Reference
    destination: Path | None = None  # None: a read-only tree under the home's releases/
    peers: tuple[str, ...] = ()  # multiaddrs to ask first, as hints
    include: tuple[str, ...] = ()  # globs over paths; none: all files
    exclude: tuple[str, ...] = ()
    allow_yanked: bool = False
    room_wait_s: float = ROOM_WAIT_S  # without a new byte, while a disk is full or away; 0: not


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A fetch that is complete: every file's SHA-256 was recomputed."""

    path: Path  # the folder, or the file where the reference named one
    method: str  # how it got there: "adopt", "reflink", "hardlink", "copy", "present"
    reference: str  # what was asked, with the version that it meant
    content_id: str
    file_count: int
    data_size: int
    bytes_fetched: int  # from peers, documents included
    bytes_reused: int  # from this node's own disk
    seconds: float
    usable_seconds: float  # of them, until every chunk was verified and could be read
    paused_seconds: float = 0.0  # of them, waited for room or for a disk
    peers: tuple[PeerShare, ...]
    signer: Signer | None  # None: asked by content id or SHA-256, and no signature is known
    warnings: tuple[str, ...] = ()  # one line each, for a person


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """One file of a release."""

    path: str
    size: int  # bytes
    sha256: bytes  # as the manifest states it
    object: Digest
    held_bytes: int = 0  # verified bytes on this machine
    complete: bool = False  # its SHA-256 was recomputed here


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseView:
    """One release: what its manifest says, who signed it, who holds it."""

    reference: str
    manifest: Digest
    content_id: str
    kind: Kind
    license: str
    tags: tuple[str, ...]
    base: tuple[str, ...]
    datasets: tuple[str, ...]
    card: str  # path of the file that describes it, or ""
    data_size: int
    files: tuple[FileView, ...]  # sorted by path
    signer: Signer | None
    providers: tuple[str, ...]  # peer ids known to hold some of it, this node not among them


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionView:
    """One signed version of a release."""

    version: str
    manifest: Digest
    status: str  # "active", "deprecated" or "yanked"
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsView:
    """All versions of one name, highest first, from verified metadata."""

    publisher_id: str
    petname: str | None
    name: str
    freshness: str  # "fresh", "stale", "expired" or "halted"
    versions: tuple[VersionView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSummary:
    """One row of `ls`: a release that is held, or known from a publisher whom the user named."""

    reference: str  # petname or publisher id/name@version, else the content id
    manifest: Digest
    content_id: str
    publisher_id: str | None
    petname: str | None
    name: str | None
    version: str | None
    kind: Kind | None  # None: the manifest is not here yet
    license: str
    file_count: int
    data_size: int
    held_bytes: int
    state: str  # "published", "changed" (published, then edited), "complete", "partial" or "known"
    path: Path | None  # where its files are, if they are materialised
    is_pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing found wrong by `verify`."""

    path: str
    reason: str
    # Of error: DigestMismatch where the release states what is false, ReleaseChanged where people
    # edited, moved or removed files, else the disk's.
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The result of reading everything again."""

    reference: str
    content_id: str
    file_count: int
    whole_count: int  # files of which every byte is held and was compared
    data_size: int  # bytes read and compared
    missing_bytes: int  # not held here, so not compared
    faults: tuple[Fault, ...]
    signer: Signer | None


ReadBytes: TypeAlias = AbstractAsyncContextManager[AsyncIterator[bytes]]


class NodeApi(Protocol):
    """A running node.

    Every method but `metrics` raises P2phubError subclasses, and nothing else that is not a bug.
    """

    # publishing: the command line signs in between, so no signing key ever enters the daemon

    async def publish_prepare(
        self, folder: Path, terms: ReleaseTerms, progress: ProgressSink
    ) -> Prepared:
        """Take a folder into the store.

        Raises NothingToPublish, HostilePath, FileChanged, StoreFull, StoreFailed.
        """
        ...

    async def publish_commit(
        self, publisher_id: str, name: str, version: str, files: Mapping[str, bytes], petname: str
    ) -> Published:
        """Verify signed metadata as any follower would, keep, serve and announce it and the
        release that it names.

        files: TUF metadata by file name, at least what changed since the last commit.
        petname: the name for this publisher on this machine, if it has none yet.
        Raises TrustError's kinds, NotHeld where the manifest was not prepared here, PetnameTaken.
        """
        ...

    # releases

    async def fetch(self, request: FetchRequest, progress: ProgressSink) -> Fetched:
        """Fetch, verify and materialise.

        Cancelled: the transfer stops, and resumes with the next fetch. Where a disk is full,
        read-only or away it pauses, for `room_wait_s` without a new byte, and goes on by itself.

        Raises UnknownPetname, UnknownPublisher, ReleaseNotFound, NoProvider, TransferStalled,
        DigestMismatch, StoreFull, DestinationExists, HostilePath, MalformedDocument.
        """
        ...

    async def show(self, reference: Reference, peers: tuple[str, ...] = ()) -> ReleaseView:
        """What a reference names, fetching its documents but none of its data.

        An object, a chunk or a SHA-256 is shown as a release of one file, whose path is its
        content id or the SHA-256.
        """
        ...

    async def versions(
        self, reference: PetnameReference | ReleaseReference, peers: tuple[str, ...] = ()
    ) -> VersionsView:
        """All versions of the name in `reference`, its version ignored.

        Asks peers when what is known is not fresh.
        """
        ...

    def read(
        self,
        reference: Reference,
        path: str | None,
        start: int = 0,
        stop: int | None = None,
        peers: tuple[str, ...] = (),
    ) -> ReadBytes:
        """Verified bytes [start, stop) of one file, in order, fetching only the chunks needed, the
        first one first.

        path: None where the reference names a single file. stop: None for the end; beyond the end
        is the end.
        Entering resolves the name and raises what `show` raises, and NoSuchFile for a path that is
        not there; it waits for no payload. Iterating raises NoProvider or TransferStalled. Leaving
        stops what is fetched for this reader alone.
        """
        ...

    async def releases(self) -> tuple[ReleaseSummary, ...]:
        """What is held here and what is known from named publishers, by reference."""
        ...

    async def verify(self, reference: Reference, progress: ProgressSink) -> Verified:
        """Read everything held of a release again, recompute all digests, and look for files that
        were edited or removed where they lay.

        Raises NotHeld, UnknownPetname, ReleaseNotFound.
        """
        ...

    # peers

    async def identity(self) -> IdentityView: ...

    async def status(self) -> StatusView: ...

    async def peers(self) -> tuple[PeerView, ...]: ...

    async def connect(self, address: str) -> PeerView:
        """Dial a multiaddr that ends in /p2p/<id>.

        Raises UsageError for another form, PeerUnreachable.
        """
        ...

    @property
    def bootstrap(self) -> BootstrapApi:
        """Through whom it joins the network."""

    # trust

    @property
    def trust(self) -> TrustApi:
        """The publishers whom this user named."""

    # more doors to the same node

    @property
    def upkeep(self) -> UpkeepApi:
        """Room on the disk and the state of what lies there."""

    @property
    def repairing(self) -> RepairApi:
        """Whether all that is kept is whole and right."""

    @property
    def exchange(self) -> ExchangeApi:
        """To and from the folders of other tools."""

    @property
    def limits(self) -> LimitsApi:
        """How fast it may download and upload."""

    def metrics(self) -> tuple[Metric, ...]:
        """All counters and gauges now."""


# The daemon builds the node by `p2phub.node.node.open_node(home, settings)`, of this type. Entering
# returns when the node listens (raises PortInUse, StoreNewer, BadSetting); a failure of the node's
# own tasks comes out of the context. `settings` is p2phub.config.Settings.
OpenNode: TypeAlias = Callable[..., AbstractAsyncContextManager[NodeApi]]
