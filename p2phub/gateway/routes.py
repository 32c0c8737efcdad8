"""What a path of the Hugging Face Hub asks for. Pure: paths in, routes out.

    /{id}/resolve/{rev}/{path}            one file of a model; of a dataset under /datasets/{id}/…
    /api/{models|datasets}/{id}           what a release holds; also …/revision/{rev}
    /api/…/{id}/tree/{rev}[/{path}]       its files
    /api/…/{id}/paths-info/{rev}          some of its files (POST)
    /api/…/{id}/refs                      its versions
    /api/{models|datasets}                what this node has

{id} is `petname/name`, `<publisher id>/name` or a content id; {rev} is one path segment, quoted
where it holds a slash.

Source: recorded traffic of huggingface_hub 0.30 to 2.4, llama.cpp and hf-hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from p2phub.errors import UnknownReference
from p2phub.gateway.http import HttpError
from p2phub.node.api import Kind
from p2phub.proto.content_id import parse_content_id
from p2phub.proto.names import (
    ContentReference,
    PetnameReference,
    ReleaseReference,
    is_name,
    is_petname,
    parse_publisher_id,
)

Verb: TypeAlias = Literal["list", "info", "tree", "paths-info", "refs", "resolve"]
RepositoryReference: TypeAlias = ContentReference | PetnameReference | ReleaseReference

MAIN: Final = ("main", "HEAD", "refs/heads/main")  # names of the latest version
_KINDS: Final[dict[str, Kind]] = {"models": "model", "datasets": "dataset"}
_VERBS: Final = ("revision", "tree", "paths-info", "refs")


@dataclass(frozen=True, slots=True)
class Route:
    """One request's meaning."""

    verb: Verb
    kind: Kind
    id: str = ""  # as the client wrote it; "" for `list`
    revision: str = "main"
    path: str = ""  # of a file or folder within the release; "": its root


def parse_route(segments: tuple[str, ...]) -> Route | None:
    """The route that a path names, or None if it is none of the Hub's.

    Raises HttpError for spaces, which are not shared.
    """
    if segments[0] == "api" and len(segments) >= 2:
        if segments[1] == "spaces":
            raise HttpError(404, "RepoNotFound", "spaces are not shared over p2phub")
        if segments[1] in _KINDS:
            return _parse_api(_KINDS[segments[1]], segments[2:])
        return None
    # A dataset's id has two parts of its own after /datasets, so a petname `datasets` is told apart
    # by where `resolve` stands.
    for kind, start in (("model", 0), ("dataset", 1)):
        if start and segments[0] != "datasets":
            continue
        rest = segments[start:]
        count = _id_length(rest)
        if len(rest) > count + 2 and rest[count] == "resolve":
            path = "/".join(rest[count + 2 :])
            identity = "/".join(rest[:count])
            return Route(
                "resolve",
                "dataset" if kind == "dataset" else "model",
                identity,
                rest[count + 1],
                path,
            )
    return None


def _parse_api(kind: Kind, rest: tuple[str, ...]) -> Route | None:
    if not rest:
        return Route("list", kind)
    count = _id_length(rest)
    identity, tail = "/".join(rest[:count]), rest[count:]
    match tail:
        case ():
            return Route("info", kind, identity)
        case ("revision", revision):
            return Route("info", kind, identity, revision)
        case ("tree", revision, *path):
            return Route("tree", kind, identity, revision, "/".join(path))
        case ("paths-info", revision):
            return Route("paths-info", kind, identity, revision)
        case ("refs",):
            return Route("refs", kind, identity)
    return None


def _id_length(segments: tuple[str, ...]) -> int:
    """How many segments the id has: a content id has one, all others two."""
    return 1 if segments and _content_digest(segments[0]) is not None else 2


def parse_repository(identity: str) -> RepositoryReference:
    """What an id names, its version left open. Raises HttpError (404)."""
    owner, slash, name = identity.partition("/")
    if not slash:
        digest = _content_digest(identity)
        if digest is not None:
            return ContentReference(digest)
    elif is_name(name):
        if is_petname(owner):
            return PetnameReference(owner, name, None)
        try:
            parse_publisher_id(owner)
        except UnknownReference:
            pass
        else:
            return ReleaseReference(owner, name, None)
    raise HttpError(
        404,
        "RepoNotFound",
        f"{identity[:80]!a} names no release: "
        "use petname/name, <publisher id>/name or a content id",
    )


def _content_digest(text: str) -> bytes | None:
    try:
        return parse_content_id(text)
    except UnknownReference:
        return None
