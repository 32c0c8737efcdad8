"""The Hugging Face Hub's cache on this disk: read with every byte's name, and written so that its
own tools take it for theirs.

A file lies in `blobs` under the name that the Hub gave it: the SHA-256 of a large file, or git's
own name of a small one. Snapshots are folders of relative links to blobs. Nobody checks them once
they are there, so whoever takes from a cache compares.

Source: huggingface_hub 2.4, the modules file_download, _tree_cache and utils/_cache_manager.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from p2phub.digest import git_blob_id, lfs_pointer
from p2phub.durable import failures, write_durably
from p2phub.errors import (
    DestinationExists,
    NoSuchFile,
    NothingToPublish,
    StoreFailed,
    UnpublishableFile,
)
from p2phub.paths import INCOMPLETE, HubCache
from p2phub.proto.file_paths import check_path, check_together
from p2phub.proto.manifest import FileRecord
from p2phub.store.base import Links, Method, Placement, Store
from p2phub.store.file_system import FileSystem
from p2phub.store.named_files import NamedFile
from p2phub.store.stamps import FileStamp

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"[0-9a-f]{40}")
_PASSED_OVER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
LOCK_TIMEOUT_S = 60.0  # another program may be downloading the same blob
LOCK_PERIOD_S = 0.1
BLOBS_PER_LOCK = 64  # descriptors held at once
TREE_BYTES_MAX = 256 << 20  # of the JSON that says what a commit holds


def commit_of_revision(cache: HubCache, revision: str) -> str:
    """The commit of a revision, which may be a commit itself. Raises NoSuchFile."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        text = cache.reference(revision).read_text("ascii", "replace").strip()
    except OSError:
        text = ""
    if not COMMIT.fullmatch(text):
        raise NoSuchFile(
            f"{cache.repository} has no revision {revision[:80]!r}: see `hf cache ls`",
            path=str(cache.repository),
        )
    return text


def list_snapshot(cache: HubCache, commit: str) -> list[NamedFile]:
    """Every file of a snapshot, where its bytes lie, and what the cache says they are.

    Raises NoSuchFile, NothingToPublish, HostilePath, UnpublishableFile.
    """
    root = cache.snapshot(commit)
    if not os.path.isdir(root):
        raise NoSuchFile(f"{root} is not there: see `hf cache ls`", path=str(root))
    said = _read_tree(cache.tree(commit))
    found: list[NamedFile] = []
    for above, folders, names in os.walk(root):
        for name in [*folders]:
            if os.path.islink(os.path.join(above, name)):
                raise UnpublishableFile(f"{above}/{name} is a link to a folder", path=above)
        for name in names:
            if name in _PASSED_OVER or name.endswith(INCOMPLETE):
                continue
            place = Path(above, name)
            path = check_path(place.relative_to(root).as_posix())
            found.append(_named(path, place, said.get(path, {})))
    if not found:
        raise NothingToPublish(f"{root} holds no file", path=str(root))
    missing = sorted(set(said) - {file.path for file in found})
    if missing:
        raise NoSuchFile(
            f"the snapshot lacks {len(missing)} of its files ({missing[0]!a} for one): download it"
            " whole first",
            missing=missing[:32],
        )
    found.sort(key=lambda file: file.path.encode("utf-8"))
    check_together(file.path for file in found)
    return found


def _named(path: str, place: Path, said: dict[str, object]) -> NamedFile:
    target = Path(os.path.realpath(place))
    try:
        status = os.lstat(target)
    except OSError as error:
        raise UnpublishableFile(f"{place} leads nowhere: {error.strerror}", path=path) from error
    if not stat.S_ISREG(status.st_mode) or target.name.endswith(INCOMPLETE):
        raise UnpublishableFile(f"{place} is no whole file", path=path)
    sha256 = git = b""
    if isinstance(claim := said.get("lfs_sha256"), str) and _SHA256.fullmatch(claim):
        sha256 = bytes.fromhex(claim)
    elif isinstance(claim := said.get("blob_id"), str) and _GIT.fullmatch(claim):
        git = bytes.fromhex(claim)
    if target != place:
        # The blob's own name says it too; a shared blob of Xet's has a name of another kind.
        if not sha256 and _SHA256.fullmatch(target.name) and len(target.parent.name) != 2:
            sha256 = bytes.fromhex(target.name)
        elif not git and not sha256 and _GIT.fullmatch(target.name):
            git = bytes.fromhex(target.name)
    return NamedFile(path, target, FileStamp.of(status), sha256, git)


def _read_tree(path: Path) -> dict[str, dict[str, object]]:
    try:
        if path.stat().st_size > TREE_BYTES_MAX:
            return {}
        files = json.loads(path.read_bytes())["files"]
        return {str(name): dict(entry) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


# ---- writing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A release as the Hub's cache shall have it."""

    cache: HubCache
    commit: str  # 40 hex digits
    revisions: tuple[str, ...]  # names under which tools shall find it, the most general last
    files: tuple[FileRecord, ...]


def write_snapshot(store: Store, snapshot: Snapshot, *, links: Links) -> Placement:
    """Lay a release out in a cache: blobs, then links, then what the Hub would say, then names.

    Whatever ends it, no tool sees a part of it as whole. is_linked: hard links where blocks can't
    be shared. Raises NotHeld, DestinationExists, StoreFailed.
    """
    files, cache = FileSystem(), snapshot.cache
    methods: dict[Method, int] = {}
    extra_bytes = 0
    blobs = {file.sha256: file for file in snapshot.files}
    names = sorted(sha256.hex() for sha256 in blobs)
    for start in range(0, len(names), BLOBS_PER_LOCK):
        group = names[start : start + BLOBS_PER_LOCK]
        records = []
        for name in group:
            where = cache.blob(name).relative_to(cache.root).as_posix()
            records.append(replace(blobs[bytes.fromhex(name)], path=where))
        with _locked(files, [cache.lock(name) for name in group]):
            placed = store.place_files(records, cache.root, links=links)
        extra_bytes += placed.extra_bytes
        for method, count in placed.methods.items():
            methods[method] = methods.get(method, 0) + count
    _link(files, snapshot)
    entries = {file.path: _tree_entry(file) for file in snapshot.files}
    text = json.dumps({"format_version": 1, "files": entries}, indent=2)
    _write(files, cache.tree(snapshot.commit), text.encode())
    for revision in snapshot.revisions:
        # Exactly 40 digits: with a line's end behind them nothing is found offline.
        _write(files, cache.reference(revision), snapshot.commit.encode())
    return Placement(cache.snapshot(snapshot.commit), methods, extra_bytes)


def _tree_entry(file: FileRecord) -> dict[str, object]:
    return {
        "size": file.size,
        "blob_id": git_blob_id(lfs_pointer(file.sha256, file.size)).hex(),
        "lfs_sha256": file.sha256.hex(),
        "lfs_size": file.size,
    }


def _link(files: FileSystem, snapshot: Snapshot) -> None:
    root = snapshot.cache.snapshot(snapshot.commit)
    for file in snapshot.files:
        place = root / file.path
        files.make_folder(place.parent)
        target = os.path.relpath(snapshot.cache.blob(file.sha256.hex()), place.parent)
        with failures(place):
            try:
                os.symlink(target, place)
            except FileExistsError:
                if not place.is_symlink() or os.readlink(place) != target:
                    raise DestinationExists(
                        f"{place} is something else: nothing was overwritten", path=str(place)
                    ) from None
    for folder in {(root / file.path).parent for file in snapshot.files}:
        files.sync_folder(folder)


def _write(files: FileSystem, path: Path, data: bytes) -> None:
    """A small file, whole or not at all; it replaces what was there."""
    files.make_folder(path.parent)
    with failures(path):
        write_durably(path, data)


@contextmanager
def _locked(files: FileSystem, paths: Sequence[Path]) -> Iterator[None]:
    """Hold the locks that the Hub's tools take before they write these blobs."""
    with ExitStack() as stack:
        for path in paths:
            files.make_folder(path.parent)
            file = files.open(path, os.O_RDWR | os.O_CREAT, 0o664)
            stack.callback(files.close, file)
            until_s = time.monotonic() + LOCK_TIMEOUT_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until_s:
                        raise StoreFailed(
                            f"another program has held {path} for a minute: wait for its download",
                            path=str(path),
                        ) from None
                    time.sleep(LOCK_PERIOD_S)
        yield
