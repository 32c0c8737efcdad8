"""Petnames: durable, and never mistaken for one another."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import (
    BadPetname,
    PetnameTaken,
    StoreFailed,
    UnknownPetname,
    UnknownReference,
)
from p2phub.proto.names import publisher_id_text
from p2phub.trust.petnames import Petnames, skeleton
from tests.trust.builders import ADDRESS, NOW

ALICE = publisher_id_text(bytes(32))
BOB = publisher_id_text(bytes([1]) * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trust" / "petnames.json"


def test_a_petname_outlives_a_restart(path: Path) -> None:
    table = Petnames(path)
    added = table.add("alice", ALICE, NOW, peers=(ADDRESS,))
    again = Petnames(path)
    assert again.resolve("alice") == added
    assert again.list() == [added]
    assert again.names_of(ALICE) == ("alice",)


def test_a_removed_petname_stays_removed(path: Path) -> None:
    table = Petnames(path)
    table.add("alice", ALICE, NOW)
    table.add("bob", BOB, NOW)
    assert table.remove("alice").publisher_id == ALICE
    assert [entry.name for entry in Petnames(path).list()] == ["bob"]
    with pytest.raises(UnknownPetname):
        table.remove("alice")


def test_the_same_entry_again_is_no_error(path: Path) -> None:
    table = Petnames(path)
    table.add("alice", ALICE, NOW)
    assert table.add("alice", ALICE, NOW, peers=(ADDRESS,)).peers == (ADDRESS,)
    assert len(table.list()) == 1


def test_a_publisher_may_have_two_petnames(path: Path) -> None:
    table = Petnames(path)
    table.add("alice", ALICE, NOW)
    table.add("work", ALICE, NOW)
    assert table.names_of(ALICE) == ("alice", "work")


@pytest.mark.parametrize(
    ("first", "second"),
    [("alice", "alice"), ("meta-llama", "meta-IIama"), ("google", "g00gle"), ("burn", "bum"),
     ("Paul", "paul"), ("a.b", "a_b"), ("vv", "w")],
)  # fmt: skip
def test_a_look_alike_for_another_publisher_is_refused(path: Path, first: str, second: str) -> None:
    table = Petnames(path)
    table.add(first, ALICE, NOW)
    with pytest.raises(PetnameTaken, match=first):
        table.add(second, BOB, NOW)
    assert table.resolve(first).publisher_id == ALICE


@pytest.mark.parametrize(
    "name",
    ["meta-llаma", "", "a b", "a/b", "-a", "a-", "x" * 41, "ａlice", "a\u200bb", "a\x1b[2J", "é"],
)
def test_other_scripts_and_odd_signs_are_refused(path: Path, name: str) -> None:
    table = Petnames(path)
    with pytest.raises(BadPetname) as caught:
        table.add(name, ALICE, NOW)
    assert str(caught.value).isascii()
    assert not path.exists()


def test_an_unknown_petname_is_shown_escaped(path: Path) -> None:
    table = Petnames(path)
    table.add("meta-llama", ALICE, NOW)
    with pytest.raises(UnknownPetname) as caught:
        table.resolve("meta-ll\u0430ma")
    assert "\\u0430" in str(caught.value)
    with pytest.raises(UnknownPetname, match="did you mean meta-llama"):
        table.resolve("meta-IIama")


def test_a_shortened_id_is_refused(path: Path) -> None:
    with pytest.raises(UnknownReference):
        Petnames(path).add("alice", ALICE[:-1], NOW)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"v":2,"petnames":[]}', b'{"v":1,"petnames":[{"name":"a"}]}',
     b'{"v":1,"petnames":[{"name":"a/b","publisher_id":"x","added":"","peers":[]}]}', b"\xff"],
)  # fmt: skip
def test_a_damaged_table_is_told_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreFailed, match="restore"):
        Petnames(path)
    assert path.read_bytes() == content


@given(st.text(alphabet="abilovw0158-._rnm", min_size=1, max_size=12))
def test_a_skeleton_does_not_depend_on_capitals(name: str) -> None:
    assert skeleton(name.upper()) == skeleton(name)
