"""Versions: PEP 440, its order and its one normal form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.core.trust.versions import highest, is_normal_version, normal_version, parse_version
from p2phub.errors import BadVersion

ORDERED = [
    "0.9", "1.0.dev1", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0+cu118", "1.0.post1", "1.9", "1.10",
    "2026.8.1", "1!0.1",
]  # fmt: skip


def test_versions_are_ordered_as_numbers_and_stages() -> None:
    mixed = ORDERED[::2] + ORDERED[1::2]
    assert sorted(mixed, key=parse_version) == ORDERED
    assert highest(ORDERED) == "1!0.1"
    assert highest([]) is None


@pytest.mark.parametrize(
    ("text", "normal"),
    [("1.0", "1.0"), ("v1.0", "1.0"), ("1.0-RC.1", "1.0rc1"), ("1.0-1", "1.0.post1"),
     ("01.2", "1.2"), ("1.0+CU_118", "1.0+cu.118")],
)  # fmt: skip
def test_each_version_has_one_normal_form(text: str, normal: str) -> None:
    assert normal_version(text) == normal
    assert is_normal_version(normal)
    assert is_normal_version(text) is (text == normal)


@pytest.mark.parametrize(
    "text",
    ["", "latest", "main", "1.x", "1..0", "1.0/2", "../1", "1.0 ", " 1.0", "1\n", "1" * 65, "١.٢",
     "1.0\x00"],
)  # fmt: skip
def test_everything_else_is_refused(text: str) -> None:
    assert not is_normal_version(text)
    with pytest.raises(BadVersion):
        parse_version(text)


@given(st.text(max_size=80))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        normal = normal_version(text)
    except BadVersion:
        return
    assert is_normal_version(normal)
