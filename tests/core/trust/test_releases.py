"""Which release a reference means."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.trust.releases import ReleaseStatement, ReleaseStatus, choose_release
from p2phub.core.trust.versions import parse_version
from p2phub.errors import BadVersion, ReleaseNotFound, ReleaseYanked


def release(version: str, status: ReleaseStatus = ReleaseStatus.ACTIVE) -> ReleaseStatement:
    return ReleaseStatement(
        publisher_id="b-id",
        name="m",
        version=version,
        manifest_digest=bytes(32),
        manifest_length=1,
        manifest_sha256=bytes(32),
        kind="model",
        license="MIT",
        status=status,
        reason="",
        root_version=1,
    )


YANKED = release("3.0", ReleaseStatus.YANKED)
RELEASES = [release("1.0"), release("1.10", ReleaseStatus.DEPRECATED), release("1.9"), YANKED]


def test_the_latest_is_the_highest_that_is_not_withdrawn() -> None:
    assert choose_release(RELEASES, name="m", version=None).version == "1.10"
    assert choose_release(RELEASES, name="m", version=None, allow_yanked=True) is YANKED


def test_a_version_is_found_in_every_spelling() -> None:
    for text in ("1.0", "1", "v1.0.0"):
        assert choose_release(RELEASES, name="m", version=text).version == "1.0"


def test_a_withdrawn_release_needs_a_word() -> None:
    with pytest.raises(ReleaseYanked):
        choose_release(RELEASES, name="m", version="3.0")
    with pytest.raises(ReleaseYanked):
        choose_release([YANKED], name="m", version=None)
    assert choose_release(RELEASES, name="m", version="3.0", allow_yanked=True) is YANKED


def test_what_is_not_there_is_not_found() -> None:
    with pytest.raises(ReleaseNotFound, match=r"highest of 4 is 3\.0"):
        choose_release(RELEASES, name="m", version="4.0")
    with pytest.raises(ReleaseNotFound):
        choose_release([], name="m", version=None)
    with pytest.raises(BadVersion):
        choose_release(RELEASES, name="m", version="newest")


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, unique=True),
       st.randoms(use_true_random=False))  # fmt: skip
def test_the_order_of_statements_does_not_matter(
    pairs: list[tuple[int, int]], rng: random.Random
) -> None:
    releases = [release(f"{major}.{minor}") for major, minor in pairs]
    first = choose_release(releases, name="m", version=None)
    rng.shuffle(releases)
    assert choose_release(releases, name="m", version=None) == first
    assert all(parse_version(one.version) <= first.version_key for one in releases)
