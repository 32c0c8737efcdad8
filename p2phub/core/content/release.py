"""A release's documents, made from the records of its files: file pages and the manifest root.

Source: SPEC.md section 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2phub.digest import Digest, digest
from p2phub.errors import MalformedDocument, NothingToPublish, TooLarge, UsageError
from p2phub.proto.file_paths import check_path, check_together
from p2phub.proto.limits import FILES_MAX, MANIFEST_BYTES_MAX, RELEASE_BYTES_MAX
from p2phub.proto.manifest import FileRecord, Manifest, cut_pages, page_ref

CARD_DEFAULT = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseTerms:
    """What a publisher says of a release beside its files. All of it is part of the manifest."""

    kind: str = "model"  # or "dataset"
    license: str = ""  # SPDX expression, or "" where unknown
    tags: tuple[str, ...] = ()
    base: tuple[str, ...] = ()  # references to the models this one was made from
    datasets: tuple[str, ...] = ()  # references to what it was trained on
    card: str = ""  # path of the file that describes it; "": README.md where there is one


@dataclass(frozen=True, slots=True)
class ReleaseDocuments:
    """The documents that name a release's files."""

    manifest: Manifest
    root: bytes  # the manifest's bytes, whose BLAKE3 is the content id
    pages: tuple[bytes, ...]  # file pages, in order

    @property
    def digest(self) -> Digest:
        return digest(self.root)


def release_documents(files: Sequence[FileRecord], terms: ReleaseTerms) -> ReleaseDocuments:
    """The manifest of `files`, in any order.

    Raises NothingToPublish, HostilePath (also for two paths that some systems take for one),
    TooLarge, or UsageError where `terms` cannot be written down.
    """
    if not files:
        raise NothingToPublish()
    if len(files) > FILES_MAX or sum(file.size for file in files) > RELEASE_BYTES_MAX:
        raise TooLarge(
            f"a release holds at most {FILES_MAX:,} files and {RELEASE_BYTES_MAX:,} bytes"
        )
    check_paths(file.path for file in files)
    card = terms.card or (CARD_DEFAULT if any(f.path == CARD_DEFAULT for f in files) else "")
    if card and all(file.path != card for file in files):
        raise UsageError(f"the card {card!r} is not among the files of the folder", card=card)
    pages = cut_pages(files)
    manifest = Manifest(
        kind=terms.kind,
        license=terms.license,
        tags=terms.tags,
        base=terms.base,
        datasets=terms.datasets,
        card=card,
        pages=tuple(page_ref(page) for page in pages),
    )
    root = manifest.encode()
    if len(root) > MANIFEST_BYTES_MAX:
        raise TooLarge(
            f"the manifest would have {len(root):,} bytes, {MANIFEST_BYTES_MAX:,} are allowed: "
            "publish the files as several releases, or shorten tags and references",
            size=len(root),
        )
    try:
        Manifest.decode(root)
    except MalformedDocument as error:
        raise UsageError(f"the release cannot be described so: {error}") from None
    return ReleaseDocuments(manifest, root, tuple(page.encode() for page in pages))


def check_paths(paths: Iterable[str]) -> None:
    """Raises HostilePath unless each path is safe, and all of them together are."""
    checked = [check_path(path) for path in paths]
    check_together(checked)
