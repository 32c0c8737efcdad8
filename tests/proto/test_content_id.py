"""Content ids: one text per digest, and no other text is taken for one."""

from __future__ import annotations

import pytest
from cid import make_cid
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import UnknownReference
from p2phub.proto.content_id import content_id_text, parse_content_id

digests = st.binary(min_size=32, max_size=32)
ID = content_id_text(bytes(32))


@given(digests)
def test_an_id_survives_as_text_and_other_programs_read_it(name: bytes) -> None:
    text = content_id_text(name)
    assert parse_content_id(text) == name
    assert text.startswith("bafk") and len(text) == 59
    other = make_cid(text)
    assert (other.version, other.codec, other.multihash[2:]) == (1, "raw", name)


@given(st.text(max_size=70))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(UnknownReference):
        parse_content_id(text)


WRONG = {
    "nothing": "",
    "one short": ID[:-1],
    "one long": ID + "a",
    "in capitals": ID.upper(),
    "another base": "z" + ID[1:],
    "a stray bit at the end": ID[:-1] + "b",
    "a character of another alphabet": "b\u0430" + ID[2:],
    "a digit that base32 lacks": ID[:-2] + "1a",
    "M10 an identity hash": "bafkqaaa",
    "SHA-256": "bafkreib5aqjzwiv5mbdcvcxbzeq3xpb7tjwmvizjnk7fnrv7bsszfvpyli",
    "a blank before": " " + ID[1:],
    "a line break after": ID[:-1] + "\n",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=list(WRONG))
def test_a_near_miss_is_refused(text: str) -> None:
    with pytest.raises(UnknownReference):
        parse_content_id(text)
