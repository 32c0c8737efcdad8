"""A release in the JSON shapes of the Hugging Face Hub. Pure.

Every file is shown as an LFS file, so that clients name and check it by SHA-256; its `oid` is the
git name of the LFS pointer that would stand for it, as on the Hub. Manifests hold no times, so all
times are the epoch.

Source: recorded answers that huggingface_hub 0.30 to 2.4, hf-hub, llama.cpp and datasets accept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from p2phub.digest import git_blob_id, lfs_pointer
from p2phub.gateway.catalog import Listing, commit_of
from p2phub.node.api import FileView, ReleaseSummary, VersionView

Json: TypeAlias = dict[str, Any]

EPOCH: Final = "1970-01-01T00:00:00.000Z"


def file_entry(file: FileView) -> Json:
    stands_for = lfs_pointer(file.sha256, file.size)
    return {
        "type": "file",
        "path": file.path,
        "size": file.size,
        "oid": git_blob_id(stands_for).hex(),
        "lfs": {"oid": file.sha256.hex(), "size": file.size, "pointerSize": len(stands_for)},
    }


def folder_entry(path: str) -> Json:
    # Clients show a folder's oid and do nothing with it; git's own would need all trees below it.
    oid = git_blob_id(path.encode("utf-8")).hex()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


def tree_entries(listing: Listing, path: str, recursive: bool) -> Iterator[Json]:
    """Entries below a folder, in path order; of the folder alone or of all below it."""
    prefix = f"{path}/" if path else ""
    shown: set[str] = set()
    for file in listing.view.files:
        if not file.path.startswith(prefix):
            continue
        parts = file.path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folder = prefix + "/".join(parts[:depth])
            if folder not in shown:
                shown.add(folder)
                yield folder_entry(folder)
        if recursive or len(parts) == 1:
            yield file_entry(file)


def path_entries(listing: Listing, paths: Iterable[str]) -> list[Json]:
    """Entries of the named paths; those that are not there are left out, as on the Hub."""
    found: list[Json] = []
    for path in paths:
        if path in listing.files:
            found.append(file_entry(listing.files[path]))
        elif path in listing.folders:
            found.append(folder_entry(path))
    return found


def repository_info(identity: str, listing: Listing, with_blobs: bool) -> Json:
    """`GET /api/models/{id}`."""
    view = listing.view
    return {
        "_id": listing.commit[:24],
        "id": identity,
        "modelId": identity,
        "author": identity.partition("/")[0],
        "sha": listing.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "likes": 0,
        "downloads": 0,
        "tags": tags(view.tags, view.license),
        "siblings": [sibling(file, with_blobs) for file in view.files],
        "usedStorage": view.data_size,
        "createdAt": EPOCH,
        "lastModified": EPOCH,
    }


def sibling(file: FileView, with_blobs: bool) -> Json:
    if not with_blobs:
        return {"rfilename": file.path}
    entry = file_entry(file)
    lfs = {
        "sha256": entry["lfs"]["oid"],
        "size": file.size,
        "pointerSize": entry["lfs"]["pointerSize"],
    }
    return {"rfilename": file.path, "size": file.size, "blobId": entry["oid"], "lfs": lfs}


def tags(own: Sequence[str], license: str) -> list[str]:
    return [*own, *([f"license:{license.lower()}"] if license else [])]


def refs(listing: Listing, versions: Sequence[VersionView]) -> Json:
    """`GET …/refs`: the latest version as the branch main, each version as a tag."""
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": listing.commit}
    return {
        "branches": [main],
        "tags": [
            {
                "name": version.version,
                "ref": f"refs/tags/{version.version}",
                "targetCommit": commit_of(version.manifest),
            }
            for version in versions
        ],
        "converts": [],
        "pullRequests": [],
    }


def repository_row(summary: ReleaseSummary) -> Json:
    """One entry of `GET /api/models`."""
    identity = f"{summary.petname}/{summary.name}" if summary.petname else summary.content_id
    return {
        "_id": summary.manifest[:12].hex(),
        "id": identity,
        "modelId": identity,
        "author": identity.partition("/")[0],
        "sha": commit_of(summary.manifest),
        "private": False,
        "gated": False,
        "likes": 0,
        "downloads": 0,
        "tags": tags((), summary.license),
        "createdAt": EPOCH,
        "lastModified": EPOCH,
    }
