"""What the Hub's paths mean, and that nothing else means anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.gateway.http import HttpError
from p2phub.gateway.routes import Route, parse_repository, parse_route
from p2phub.proto.content_id import content_id_text
from p2phub.proto.names import ContentReference, PetnameReference, ReleaseReference
from tests.gateway.serving import PUBLISHER

CONTENT_ID = content_id_text(bytes(32))


def segments(path: str) -> tuple[str, ...]:
    return tuple(path.strip("/").split("/"))


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("a/b/resolve/main/f", Route("resolve", "model", "a/b", "main", "f")),
        ("a/b/resolve/main/d/e/f", Route("resolve", "model", "a/b", "main", "d/e/f")),
        ("datasets/a/b/resolve/1.0/f", Route("resolve", "dataset", "a/b", "1.0", "f")),
        ("datasets/b/resolve/main/f", Route("resolve", "model", "datasets/b", "main", "f")),
        (f"{CONTENT_ID}/resolve/main/f", Route("resolve", "model", CONTENT_ID, "main", "f")),
        ("resolve/resolve/resolve/x/f", Route("resolve", "model", "resolve/resolve", "x", "f")),
        ("api/models", Route("list", "model")),
        ("api/models/a/b", Route("info", "model", "a/b")),
        ("api/datasets/a/b/revision/x", Route("info", "dataset", "a/b", "x")),
        ("api/models/a/tree", Route("info", "model", "a/tree")),
        ("api/models/a/b/tree/main", Route("tree", "model", "a/b", "main")),
        ("api/models/a/b/tree/main/c/d", Route("tree", "model", "a/b", "main", "c/d")),
        ("api/models/a/b/paths-info/main", Route("paths-info", "model", "a/b", "main")),
        (f"api/models/{CONTENT_ID}/refs", Route("refs", "model", CONTENT_ID)),
        ("api/models/a/b/refs", Route("refs", "model", "a/b")),
        ("api/models/a/b/commits/main", None),
        ("api/whoami-v2", None),
        ("a/b/resolve/main", None),
        ("a/b/raw/main/f", None),
        ("a", None),
    ],
)
def test_a_path_means_one_thing(path: str, route: Route | None) -> None:
    assert parse_route(segments(path)) == route


@given(st.lists(st.text(max_size=8), min_size=1, max_size=8))
def test_no_path_does_more_than_be_unknown(parts: list[str]) -> None:
    try:
        parse_route(tuple(parts))
    except HttpError as error:
        assert error.status == 404


def test_an_id_is_a_petname_a_publisher_or_content() -> None:
    assert parse_repository("lab/tiny") == PetnameReference("lab", "tiny", None)
    assert parse_repository(f"{PUBLISHER}/tiny") == ReleaseReference(PUBLISHER, "tiny", None)
    assert parse_repository(CONTENT_ID) == ContentReference(bytes(32))


NONSENSE = ("tiny", "lab/", "/tiny", "lab/../x", "lab/a b", "é/tiny", CONTENT_ID[:-1])


@pytest.mark.parametrize("identity", (*NONSENSE, f"{PUBLISHER[:-1]}/tiny"))
def test_what_is_no_id_is_no_repository(identity: str) -> None:
    with pytest.raises(HttpError) as caught:
        parse_repository(identity)
    assert (caught.value.status, caught.value.code) == (404, "RepoNotFound")
