"""References: each accepted form, its round trip, and everything that only looks like one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import UnknownReference
from p2phub.proto.names import (
    ContentReference,
    FileReference,
    PetnameReference,
    PublisherReference,
    Reference,
    ReleaseReference,
    is_address,
    is_name,
    is_petname,
    parse_publisher,
    parse_publisher_id,
    parse_reference,
    publisher_id_text,
)

PUBLISHER = publisher_id_text(bytes(range(32)))
CONTENT = str(ContentReference(bytes(range(32))))
PEER = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWGRU"
PEER_6 = "/ip6/2001:db8::1/tcp/4001"

WORDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._]{0,18}[A-Za-z0-9]", fullmatch=True)
NAMES = WORDS.filter(is_name)
PETNAMES = WORDS.filter(is_petname)
VERSIONS = st.none() | st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(rc[0-9])?", fullmatch=True)
ADDRESSES = st.from_regex(r"/[!-~]{1,60}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32)
PUBLISHERS = DIGESTS.map(publisher_id_text)
REFERENCES: st.SearchStrategy[Reference] = st.one_of(
    DIGESTS.map(ContentReference),
    DIGESTS.map(FileReference),
    st.builds(PetnameReference, PETNAMES, NAMES, VERSIONS),
    st.builds(
        ReleaseReference, PUBLISHERS, NAMES, VERSIONS, st.lists(ADDRESSES, max_size=16).map(tuple)
    ),
)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (CONTENT, ContentReference(bytes(range(32)))),
        ("sha256:" + "ab" * 32, FileReference(b"\xab" * 32)),
        ("alice/tiny-llm", PetnameReference("alice", "tiny-llm", None)),
        ("alice/tiny-llm@1.0", PetnameReference("alice", "tiny-llm", "1.0")),
        ("alice/tiny-llm@latest", PetnameReference("alice", "tiny-llm", None)),
        (
            "alice/Llama-3.1_8B@1!2.0rc1+cu",
            PetnameReference("alice", "Llama-3.1_8B", "1!2.0rc1+cu"),
        ),
        (f"{PUBLISHER}/m@2", ReleaseReference(PUBLISHER, "m", "2")),
        (f"p2phub://{PUBLISHER}/m", ReleaseReference(PUBLISHER, "m", None)),
        (f"p2phub://{PUBLISHER}/m@2", ReleaseReference(PUBLISHER, "m", "2")),
        (
            f"p2phub://{PUBLISHER}/m@2?peer={PEER}&peer=%2Fip6%2F2001%3Adb8%3A%3A1%2Ftcp%2F4001",
            ReleaseReference(PUBLISHER, "m", "2", (PEER, PEER_6)),
        ),
    ],
)
def test_each_form_is_understood(text: str, meant: Reference) -> None:
    assert parse_reference(text) == meant


@given(REFERENCES)
def test_a_reference_survives_being_written(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "", "m", "model.bin", "/m", "alice/", "alice/m/x", "alice/m@", "alice/m@1@2", "alice/../x",
        "../m", "al ice/m", "alice/m x", "alice/m@1 0", "alice/m\n", "аlice/m", "alice/mоdel",
        CONTENT[:-1], CONTENT + "a", CONTENT.upper(), "B" + CONTENT[1:], CONTENT[:-1] + "1",
        "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG",
        "sha256:", "sha256:" + "ab" * 31, "sha256:" + "ab" * 33, "sha256:" + "AB" * 32,
        "sha256:" + "zz" * 32, "SHA256:" + "ab" * 32,
        "p2phub://", f"p2phub://{PUBLISHER}", f"p2phub://{PUBLISHER}/", f"P2PHUB://{PUBLISHER}/m",
        f"{PUBLISHER[:-1]}/m", f"{PUBLISHER.upper()}/m", f"{'a' * 56}/m", f"{'a' * 41}/m",
        f"p2phub://{PUBLISHER[:-1]}/m", f"p2phub://{PUBLISHER.upper()}/m",
        f"p2phub://{PUBLISHER}/m/x",
        f"p2phub://{PUBLISHER}/m?", f"p2phub://{PUBLISHER}/m?peer=", f"p2phub://{PUBLISHER}/m?x=/a",
        f"p2phub://{PUBLISHER}/m?peer=http://x", f"p2phub://{PUBLISHER}/m?peer=/a%20b",
        f"p2phub://{PUBLISHER}/m?peer=/a%ff", f"p2phub://{PUBLISHER}/m?peer=/{'x' * 300}",
        f"p2phub://{PUBLISHER}/m?" + "&".join(["peer=/a"] * 17), "a" * 9000,
        "p2phub://alice/m", f"p2phub:/{PUBLISHER}/m", "https://huggingface.co/a/b",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_reference_is_refused(text: str) -> None:
    with pytest.raises(UnknownReference) as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()


def test_a_refusal_tells_the_forms() -> None:
    with pytest.raises(UnknownReference, match="petname/name"):
        parse_reference("alice/")


@given(st.text(max_size=120))
def test_no_text_raises_anything_else(text: str) -> None:
    for parse in (parse_reference, parse_publisher):
        try:
            parse(text)
        except UnknownReference as error:
            assert "\x1b" not in str(error)


@given(DIGESTS)
def test_a_publisher_id_survives_being_written(digest: bytes) -> None:
    text = publisher_id_text(digest)
    assert (len(text), text[:4]) == (56, "bciq")
    assert parse_publisher_id(text) == digest


@given(DIGESTS, st.integers(0, 55), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567ABZ018 =é"))
def test_one_changed_character_is_another_id_or_none(digest: bytes, at: int, sign: str) -> None:
    text = publisher_id_text(digest)
    changed = text[:at] + sign + text[at + 1 :]
    try:
        parsed = parse_publisher_id(changed)
    except UnknownReference:
        return
    assert publisher_id_text(parsed) == changed


def test_a_publisher_is_named_in_three_ways() -> None:
    for text in (PUBLISHER, f"p2phub:{PUBLISHER}", f"p2phub://{PUBLISHER}"):
        assert parse_publisher(text) == PublisherReference(PUBLISHER)
    linked = parse_publisher(f"p2phub://{PUBLISHER}?peer={PEER}")
    assert linked == PublisherReference(PUBLISHER, (PEER,))
    assert parse_publisher(str(linked)) == linked
    for text in (PUBLISHER[:-1], PUBLISHER + "/m", f"p2phub://{PUBLISHER}/", "alice", CONTENT):
        with pytest.raises(UnknownReference):
            parse_publisher(text)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("bert-base-uncased", True), ("Llama-3.1-8B", True), ("a", True), ("_x_", True),
     ("x" * 96, True), ("x" * 97, False), ("", False), (".x", False), ("x.", False), ("-x", False),
     ("a..b", False), ("a--b", False), ("x.git", False), ("root", False), ("Targets", False),
     ("snapshot", False), ("timestamp", False), ("nul", False), ("COM1.x", False), ("a\n", False),
     ("a/b", False), ("é", False)],
)  # fmt: skip
def test_names_are_those_of_the_hub_less_the_dangerous(name: str, allowed: bool) -> None:
    assert is_name(name) is allowed


def test_no_petname_can_look_like_an_id() -> None:
    assert is_petname("a" * 40)
    assert not is_petname("a" * 41)
    assert not is_petname(PUBLISHER)
    assert not is_petname(CONTENT)


def test_addresses_are_bounded_printable_ascii() -> None:
    assert is_address(PEER)
    for odd in ("", "ip4/1.2.3.4", "/ip4/1.2.3.4 ", "/\x1b", "/é", "/" + "x" * 256):
        assert not is_address(odd)
