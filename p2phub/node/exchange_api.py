"""What the doors may ask of a node about other tools' folders, and the values they get back: part
of `NodeApi`, under the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from p2phub.node.progress import ProgressSink
from p2phub.proto.names import Reference

if TYPE_CHECKING:
    from p2phub.node.api import Prepared, ReleaseTerms

Tool: TypeAlias = Literal["folder", "hf", "ollama"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to lay out, and for whom."""

    reference: Reference
    tool: Tool
    folder: Path  # absolute: the folder itself, $HF_HUB_CACHE or $OLLAMA_MODELS
    name: str = ""  # the tool's own name for it; "": made from the reference
    hardlink: bool = False  # instead of a copy, where blocks can't be shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A release that another tool can use."""

    path: Path  # the folder, the snapshot, or ollama's manifest
    name: str  # by which the tool finds it
    content_id: str
    file_count: int
    data_size: int
    extra_bytes: int  # newly used by file contents
    method: str  # such as "3 reflink, 1 copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """What to take in."""

    tool: Tool
    folder: Path  # absolute: as in ExportRequest
    name: str = ""  # of the repository or the model
    revision: str = "main"  # of the repository
    kind: str = "model"  # of the repository: "model" or "dataset"
    keep: bool = True  # under its content id; False: it is about to be signed


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A folder of another tool's, every byte of it read and compared."""

    prepared: Prepared
    content_id: str
    compared_count: int  # files whose name says what their bytes must be
    uncompared_count: int  # files of which nothing is said
    announced: int  # keys put into the announce queue


class ExchangeApi(Protocol):
    """To and from the folders of other tools."""

    async def export(self, request: ExportRequest, progress: ProgressSink) -> Exported:
        """Lay a whole release that is held out for another tool.

        Raises NotHeld where something of it is missing, DestinationExists, StoreFull, UsageError.
        """
        ...

    async def take_in(
        self, request: ImportRequest, terms: ReleaseTerms, progress: ProgressSink
    ) -> Imported:
        """Take files from another tool's folder, after all of them were compared with their names.

        Raises NoSuchFile, ContentError, and what publish_prepare raises.
        """
        ...
