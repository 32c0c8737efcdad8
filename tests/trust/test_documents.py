"""The profile: what no metadata file may contain, also when the right keys signed it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import TamperedMetadata
from p2phub.trust.documents import (
    read_releases,
    read_root,
    read_snapshot,
    read_targets,
    read_timestamp,
    release_statements,
    timestamp_fields,
)
from p2phub.trust.profile import key_digest
from tests.trust.builders import ADDRESS, Publisher, content_of, signed_file, signer

Read = Callable[[bytes], Any]

READERS: dict[str, Read] = {
    "1.root.json": read_root,
    "timestamp.json": read_timestamp,
    "2.snapshot.json": read_snapshot,
    "2.targets.json": read_targets,
    "1.tiny-llm.json": lambda data: read_releases("tiny-llm", data),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    publisher = Publisher(tmp_path_factory.mktemp("publisher"))
    publisher.publish()
    return publisher.files()


def changed(document: dict[str, Any], path: str, value: Any) -> bytes:
    """`document` with one value replaced; `path` is dotted, and `*` is the first key or item."""
    made = copy.deepcopy(document)
    place: Any = made
    *steps, last = path.split("|")
    for step in steps:
        place = place[next(iter(place)) if step == "*" and isinstance(place, dict) else
                      0 if step == "*" else step]  # fmt: skip
    if value is DROP:
        del place[last]
    else:
        place[last if last != "*" else next(iter(place))] = value
    return (
        signed_file(made, [signer()])
        if is_canonical(made)
        else json.dumps({"signatures": [], "signed": made}).encode()
    )


def is_canonical(value: Any) -> bool:
    if isinstance(value, dict):
        return all(is_canonical(one) for one in value.values())
    if isinstance(value, list):
        return all(is_canonical(one) for one in value)
    return not isinstance(value, float)


DROP = object()
KEY = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "ab" * 32}}
WEAK = "0100000000000000000000000000000000000000000000000000000000000000"
SHA256_CONTENT_ID = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
HASHES = {"sha256": "ab" * 32}

BAD: list[tuple[str, str, Any]] = [
    *[
        (name, "version", v)
        for name in READERS
        for v in (0, -1, True, 1.0, "1", None, 1 << 64, 1 << 53)
    ],
    *[(name, "_type", v) for name in READERS for v in ("mirrors", 1, DROP)],
    *[
        (name, "expires", v)
        for name in READERS
        for v in ("9999-12-31", "2027-01-01T00:00:60Z", "2027-01-01T00:00:00+00:00", 5, DROP,
                  "2027-01-01t00:00:00z", "2027-13-01T00:00:00Z", "٢٠٢٧-01-01T00:00:00Z")
    ],
    *[(name, "spec_version", v) for name in READERS for v in ("2.0.0", "1", "1.0.31.1", "1.x", 1)],
    ("1.root.json", "consistent_snapshot", False),
    ("1.root.json", "consistent_snapshot", DROP),
    ("1.root.json", "roles|mirrors", {"keyids": ["ab" * 32], "threshold": 1}),
    ("1.root.json", "roles|snapshot", DROP),
    *[("1.root.json", "roles|root|threshold", v) for v in (0, -1, 2, True, 1.0, "1")],
    ("1.root.json", "roles|root|keyids", []),
    ("1.root.json", "roles|root|keyids", ["ab" * 32]),
    ("1.root.json", "roles|root|keyids", "ab" * 32),
    ("1.root.json", "roles|root|extra", 1),
    ("1.root.json", f"keys|{'ab' * 32}", KEY),
    ("1.root.json", f"keys|{key_digest('AB' * 32)}", {**KEY, "keyval": {"public": "AB" * 32}}),
    ("1.root.json", f"keys|{key_digest('ab' * 31)}", {**KEY, "keyval": {"public": "ab" * 31}}),
    ("1.root.json", f"keys|{key_digest(WEAK)}", {**KEY, "keyval": {"public": WEAK}}),
    ("1.root.json", f"keys|{key_digest('ab' * 32)}", {**KEY, "keytype": "rsa"}),
    ("1.root.json", f"keys|{key_digest('ab' * 32)}", {**KEY, "extra": 1}),
    ("1.root.json", "x-p2phub", DROP),
    ("1.root.json", "x-p2phub|v", 2),
    ("1.root.json", "x-p2phub|v", True),
    ("1.root.json", "x-p2phub|later", 1),
    ("1.root.json", "x-p2phub|equivocation", "ignore"),
    ("1.root.json", "x-p2phub|next_root", DROP),
    ("1.root.json", "x-p2phub|next_root|threshold", 0),
    ("1.root.json", "x-p2phub|next_root|threshold", 2),
    ("1.root.json", "x-p2phub|next_root|keyids", []),
    ("1.root.json", "x-p2phub|next_root|keyids", ["ab" * 32, "ab" * 32]),
    ("1.root.json", "x-p2phub|next_root|keyids", ["ab" * 31]),
    ("1.root.json", "x-p2phub|next_root|keyids", [f"{n:064x}" for n in range(65)]),
    ("timestamp.json", "meta|snapshot.json|hashes", DROP),
    ("timestamp.json", "meta|snapshot.json|hashes", {}),
    ("timestamp.json", "meta|snapshot.json|hashes", {"md5": "ab" * 16}),
    ("timestamp.json", "meta|snapshot.json|length", DROP),
    ("timestamp.json", "meta|snapshot.json|length", 2_000_001),
    ("timestamp.json", "meta|snapshot.json|version", 0),
    ("timestamp.json", "meta|targets.json", {"version": 1, "length": 1, "hashes": HASHES}),
    ("timestamp.json", "x-p2phub", DROP),
    ("timestamp.json", "x-p2phub|root_version", 0),
    ("timestamp.json", "x-p2phub|root_version", DROP),
    ("timestamp.json", "x-p2phub|fresh_until", "tomorrow"),
    ("timestamp.json", "x-p2phub|peers", [ADDRESS] * 17),
    ("timestamp.json", "x-p2phub|peers", ["http://example.com"]),
    ("timestamp.json", "x-p2phub|peers", ["/ip4/" + "1" * 300]),
    ("timestamp.json", "x-p2phub|peers", ["/dns/\x1b[2J"]),
    ("timestamp.json", "x-p2phub|peers", ADDRESS),
    ("2.snapshot.json", "meta|targets.json", DROP),
    ("2.snapshot.json", "meta|../x.json", {"version": 1, "length": 1, "hashes": HASHES}),
    ("2.snapshot.json", "meta|a%2fb.json", {"version": 1, "length": 1, "hashes": HASHES}),
    ("2.snapshot.json", "meta|root.json", {"version": 1, "length": 1, "hashes": HASHES}),
    ("2.snapshot.json", "meta|tiny", {"version": 1, "length": 1, "hashes": HASHES}),
    ("2.snapshot.json", "meta|tiny-llm.json|length", 5_000_001),
    ("2.targets.json", "targets", {"a/1/manifest": {"length": 1, "hashes": HASHES}}),
    ("2.targets.json", "delegations", DROP),
    ("2.targets.json", "delegations|succinct_roles", {}),
    ("2.targets.json", "delegations|roles|*|name", "../../x"),
    ("2.targets.json", "delegations|roles|*|name", "a%2fb"),
    ("2.targets.json", "delegations|roles|*|name", "targets"),
    ("2.targets.json", "delegations|roles|*|name", "other"),
    ("2.targets.json", "delegations|roles|*|paths", ["*/*/manifest"]),
    ("2.targets.json", "delegations|roles|*|paths", ["*"]),
    ("2.targets.json", "delegations|roles|*|paths", DROP),
    ("2.targets.json", "delegations|roles|*|path_hash_prefixes", [""]),
    ("2.targets.json", "delegations|roles|*|terminating", False),
    ("2.targets.json", "delegations|roles|*|threshold", 0),
    ("1.tiny-llm.json", "delegations", {"keys": {}, "roles": []}),
    ("1.tiny-llm.json", "targets|other/1.0/manifest", {"length": 1, "hashes": HASHES}),
    ("1.tiny-llm.json", "targets|*|length", -1),
    ("1.tiny-llm.json", "targets|*|length", 65 * 1024),
    ("1.tiny-llm.json", "targets|*|hashes", {"sha256": "AB" * 32}),
    ("1.tiny-llm.json", "targets|*|hashes", {**HASHES, "md5": "ab"}),
    ("1.tiny-llm.json", "targets|*|custom", DROP),
    ("1.tiny-llm.json", "targets|*|custom|release", SHA256_CONTENT_ID),
    ("1.tiny-llm.json", "targets|*|custom|kind", "virus"),
    ("1.tiny-llm.json", "targets|*|custom|status", "deleted"),
    ("1.tiny-llm.json", "targets|*|custom|license", "\x1b]0;owned\x07"),
    ("1.tiny-llm.json", "targets|*|custom|license", "x" * 257),
    ("1.tiny-llm.json", "targets|*|custom|license", 5),
    ("1.tiny-llm.json", "targets|*|custom|reason", "a\u202eb"),
    ("1.tiny-llm.json", "targets|*|custom|later", 1),
    ("1.tiny-llm.json", "targets|*|custom|attest", [{"kind": "oms"}]),
    ("1.tiny-llm.json", "targets|*|custom|attest", [{}] * 17),
]  # fmt: skip


def described(case: tuple[str, str, Any]) -> str:
    file_name, path, value = case
    return f"{file_name} {path} {'dropped' if value is DROP else ascii(value)[:40]}"


@pytest.mark.parametrize("case", BAD, ids=described)
def test_a_file_outside_the_profile_is_refused(
    files: dict[str, bytes], case: tuple[str, str, Any]
) -> None:
    file_name, path, value = case
    with pytest.raises(TamperedMetadata):
        READERS[file_name](changed(content_of(files[file_name]), path, value))


@pytest.mark.parametrize("file_name", READERS)
def test_a_file_of_a_real_publisher_is_within_the_profile(
    files: dict[str, bytes], file_name: str
) -> None:
    READERS[file_name](files[file_name])


@pytest.mark.parametrize("file_name", READERS)
def test_a_file_is_not_taken_for_another(files: dict[str, bytes], file_name: str) -> None:
    for other, read in READERS.items():
        if other != file_name:
            with pytest.raises(TamperedMetadata):
                read(files[file_name])


def test_a_key_twice_is_refused_wherever_it_stands(files: dict[str, bytes]) -> None:
    good = files["timestamp.json"]
    for evil in (
        good.replace(b'"version":2}', b'"version":2,"version":9}'),
        good.replace(b'"signed":', b'"signed":{},"signed":'),
        good.replace(b'"v":1', b'"v":1,"v":1'),
    ):
        assert evil != good
        with pytest.raises(TamperedMetadata, match="twice"):
            read_timestamp(evil)


@pytest.mark.parametrize(
    "number",
    [b"1" + b"0" * 5000, b"1e3", b"2.0", b"NaN", b"Infinity", b"-2", b"1" + b"0" * 18],
)
def test_a_number_that_is_no_small_integer_is_refused(
    files: dict[str, bytes], number: bytes
) -> None:
    evil = files["timestamp.json"].replace(b'"version":2', b'"version":' + number)
    assert evil != files["timestamp.json"]
    with pytest.raises(TamperedMetadata):
        read_timestamp(evil)


def test_deep_nesting_is_refused(files: dict[str, bytes]) -> None:
    for depth in (500, 30_000):
        deep = b'{"signatures":[],"signed":' + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(TamperedMetadata):
            read_targets(deep)
    nested: Any = 1
    for _ in range(800):
        nested = [nested]
    good = content_of(files["1.root.json"])
    with pytest.raises(TamperedMetadata):
        read_root(json.dumps({"signatures": [], "signed": good | {"deep": nested}}).encode())


def test_a_hundred_thousand_delegations_are_refused_by_their_size(
    files: dict[str, bytes],
) -> None:
    targets = content_of(files["2.targets.json"])
    (role,) = targets["delegations"]["roles"]
    targets["delegations"]["roles"] = [
        role | {"name": f"m{n}", "paths": [f"m{n}/*/manifest"]} for n in range(100_000)
    ]
    data = json.dumps({"signatures": [], "signed": targets}, separators=(",", ":")).encode()
    assert len(data) > 5_000_000
    with pytest.raises(TamperedMetadata, match="longer than"):
        read_targets(data)
    # As many as fit the size, with nothing but names, are refused by their number.
    with pytest.raises(TamperedMetadata, match="objects and arrays"):
        read_targets(b'{"signed":{"_type":"targets","x":[' + b"{}," * 200_000 + b"{}]}}")


def test_names_that_differ_in_capitals_only_are_refused(files: dict[str, bytes]) -> None:
    targets = content_of(files["2.targets.json"])
    (role,) = targets["delegations"]["roles"]
    twin = role | {"name": "Tiny-LLM", "paths": ["Tiny-LLM/*/manifest"]}
    targets["delegations"]["roles"].append(twin)
    with pytest.raises(TamperedMetadata, match="twice"):
        read_targets(signed_file(targets, [signer()]))


def test_two_spellings_of_one_version_are_refused(files: dict[str, bytes]) -> None:
    releases = content_of(files["1.tiny-llm.json"])
    record = releases["targets"]["tiny-llm/1.0/manifest"]
    for other in ("1", "1.0.0"):
        doubled = {**releases["targets"], f"tiny-llm/{other}/manifest": record}
        with pytest.raises(TamperedMetadata, match="twice"):
            read_releases("tiny-llm", signed_file(releases | {"targets": doubled}, [signer()]))
    for odd in ("v1.0", "1.0-RC1", "latest", "", "..", "1/2"):
        odd_one = {f"tiny-llm/{odd}/manifest": record}
        with pytest.raises(TamperedMetadata):
            read_releases("tiny-llm", signed_file(releases | {"targets": odd_one}, [signer()]))


def test_signatures_of_odd_form_are_refused(files: dict[str, bytes]) -> None:
    good = json.loads(files["timestamp.json"])
    (signature,) = good["signatures"]
    for signatures in (
        [signature, signature],
        [{**signature, "sig": ""}],
        [{**signature, "sig": "zz" * 64}],
        [{**signature, "keyid": "x"}],
        [{**signature, "extra": 1}],
        [[]],
        {},
        [{**signature, "keyid": f"{n:064x}"} for n in range(65)],
    ):
        with pytest.raises(TamperedMetadata):
            read_timestamp(json.dumps(good | {"signatures": signatures}).encode())


def test_unsigned_fields_do_not_change_what_was_said(files: dict[str, bytes]) -> None:
    good = read_timestamp(files["timestamp.json"])
    loose = json.dumps(json.loads(files["timestamp.json"]) | {"more": [1]}, indent=3).encode()
    assert read_timestamp(loose).payload_sha256 == good.payload_sha256


def test_signed_fields_that_are_unknown_are_kept_under_the_signature(
    files: dict[str, bytes],
) -> None:
    good = content_of(files["2.snapshot.json"])
    document = read_snapshot(signed_file(good | {"later": {"a": 1}}, [signer()]))
    assert b'"later":{"a":1}' in document.payload


def test_what_a_file_says_is_read_into_types(files: dict[str, bytes]) -> None:
    fields = timestamp_fields(read_timestamp(files["timestamp.json"]).signed)
    assert (fields.root_version, fields.peers) == (1, (ADDRESS,))
    releases = read_releases("tiny-llm", files["1.tiny-llm.json"]).signed
    (statement,) = release_statements("b-id", "tiny-llm", releases, 7)
    assert (statement.version, statement.license, statement.root_version) == (
        "1.0",
        "Apache-2.0",
        7,
    )


@given(st.binary(max_size=200))
def test_no_bytes_whatsoever_raise_anything_else(data: bytes) -> None:
    for read in READERS.values():
        with pytest.raises(TamperedMetadata):
            read(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "signed",
                    "signatures",
                    "_type",
                    "version",
                    "meta",
                    "keys",
                    "roles",
                    "targets",
                    "x",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_no_document_whatsoever_raises_anything_else(document: Any) -> None:
    data = json.dumps({"signatures": [], "signed": document}).encode()
    for read in READERS.values():
        with pytest.raises(TamperedMetadata):
            read(data)
