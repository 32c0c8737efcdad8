"""What the swarm's machines ask the node to do: one frozen dataclass per deed.

A machine (`Download`, `Uploads`, `Offers`) is told of events through `on_…` and answers
`next_actions(now)` with these, in the order in which they must be carried out. A peer is named by
the text of its peer id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from p2phub.core.swarm.spans import Span
from p2phub.digest import Digest
from p2phub.proto.messages import Run

Peer: TypeAlias = str  # text of a peer id


class DropReason(Enum):
    """Why a peer is dropped from one download; the value is what a person reads."""

    WRONG_BYTES = "it sent bytes that are not what they were asked by"
    SILENT = "it answered nothing in time, several times over"
    BROKEN_PROMISES = "it kept refusing what it said it holds"
    BANNED = "it sent wrong bytes earlier in this download"


# ---- of a download -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskPages:
    """Ask `peer` which chunks of these pages it holds."""

    peer: Peer
    pages: tuple[Digest, ...]  # at most PAGES_PER_ASK_MAX


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Request a span from `peer`: open a writer for `span.runs` first, then send
    Request(request_id, span.runs).
    """

    peer: Peer
    request_id: int
    span: Span


@dataclass(frozen=True, slots=True)
class SendCancel:
    """Cancel a request: close its writer, discard what still arrives for it.

    What was verified and written until then may still be told by `on_progress`, and counts.
    """

    peer: Peer
    request_id: int


@dataclass(frozen=True, slots=True)
class DropPeer:
    """Have nothing more to do with `peer` in this download; its requests are closed as by
    SendCancel.

    The machine has forgotten the peer already: no `on_peer_gone` is needed (one does no harm).
    """

    peer: Peer
    reason: DropReason


DownloadAction: TypeAlias = AskPages | SendRequest | SendCancel | DropPeer

# ---- of the uploads ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendChoke:
    """Tell `peer` that it has no upload slot. Requests of it that had not begun are forgotten."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class SendUnchoke:
    """Tell `peer` that it has an upload slot."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class SendReject:
    """Tell `peer` that a request of it will not be served."""

    peer: Peer
    request_id: int
    code: int  # REJECT_* of p2phub.proto.messages


@dataclass(frozen=True, slots=True)
class StartUpload:
    """Send the chunks of a request; uploads of one peer are sent in the order in which they were
    started.
    """

    peer: Peer
    request_id: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class StopUpload:
    """Stop sending the chunks of a request that was started; nothing more is told about it."""

    peer: Peer
    request_id: int


UploadAction: TypeAlias = SendChoke | SendUnchoke | SendReject | StartUpload | StopUpload

# ---- of the offers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendOffer:
    """Offer `run` to `peer`: please take this first."""

    peer: Peer
    run: Run
