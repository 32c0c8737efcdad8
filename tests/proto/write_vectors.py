"""Write the vectors in proto/vectors anew: `python -m tests.proto.write_vectors [FOLDER]`.

Good cases come from the slow reference alone; bad ones are written out by hand, each with the name
of the error that must refuse it. Nothing here runs the fast code.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path
from typing import Any

from p2phub.digest import digest
from p2phub.proto import reference
from tests.proto.bad_documents import BAD_DOCUMENTS
from tests.proto.material import (
    Recipe,
    gguf_alignment,
    gguf_header,
    gguf_text,
    material,
    raw_safetensors_header,
    safetensors_header,
)
from tests.sources import ROOT

VECTORS = ROOT / "proto" / "vectors"
D = bytes(range(32))
E = bytes(range(32, 64))


def all_vectors() -> dict[str, str]:
    """Every file of vectors by its name, as text."""
    makers = {
        "codec": codec,
        "content_ids": content_ids,
        "chunking": chunking,
        "segments": segments,
        "documents": documents,
        "releases": releases,
        "messages": messages,
        "byte_channel": byte_channel,
        "fetch": fetch,
    }
    return {
        f"{name}.json": json.dumps(make(), indent=1, ensure_ascii=True) + "\n"
        for name, make in makers.items()
    }


# ---- values in JSON -----------------------------------------------------------------------------


def shown(value: Any) -> Any:
    """A msgpack value in JSON: bytes as {"hex"}, maps as {"map"}, large numbers as {"integer"}."""
    match value:
        case bool() | str():
            return value
        case int():
            return value if abs(value) < 1 << 53 else {"integer": str(value)}
        case bytes():
            return {"hex": value.hex()}
        case list():
            return [shown(item) for item in value]
        case dict():
            return {"map": {key: shown(item) for key, item in value.items()}}
    raise TypeError(type(value))


def read(value: Any) -> Any:
    """What `shown` showed."""
    match value:
        case {"hex": digits}:
            return bytes.fromhex(digits)
        case {"integer": digits}:
            return int(digits)
        case {"map": items}:
            return {key: read(item) for key, item in items.items()}
        case list():
            return [read(item) for item in value]
    return value


def bad(error: str, **cases: bytes) -> list[dict[str, str]]:
    return [
        {"name": name.replace("_", " "), "hex": data.hex(), "error": error}
        for name, data in cases.items()
    ]


# ---- the files ----------------------------------------------------------------------------------


def codec() -> dict[str, Any]:
    edges = [0, 1, 31, 32, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1]
    values: list[Any] = [*edges, *(-n for n in edges[1:]), -(1 << 63), True, False]
    values += ["", "a", "größe", "学習", "x" * 31, "x" * 32, "x" * 255, "x" * 256]
    values += [b"", b"\x00", b"x" * 255, b"x" * 256, [], [1, [2, [3]]], list(range(16))]
    values += [{}, {"b": 1, "a": {"z": b"", "ä": True}, "aa": []}]
    return {
        "good": [{"value": shown(value), "hex": reference.encode(value).hex()} for value in values],
        "bad": bad(
            "MalformedDocument",
            nothing=b"",
            nil=b"\xc0",
            reserved_byte=b"\xc1",
            float_of_32_bits=b"\xca\x3f\x80\x00\x00",
            float_of_64_bits=b"\xcb" + bytes(8),
            not_a_number=b"\xcb\x7f\xf8" + bytes(6),
            extension=b"\xd4\x05\x00",
            timestamp=b"\xd6\xff\x00\x00\x00\x00",
            long_number=b"\xcc\x01",
            number_of_2_to_63=b"\xcf\x80" + bytes(7),
            long_text=b"\xd9\x01a",
            long_bytes=b"\xc5\x00\x01a",
            long_list=b"\xdc\x00\x01\x01",
            long_map=b"\xde\x00\x01\xa1a\x01",
            text_not_utf_8=b"\xa2\xff\xfe",
            lone_surrogate=b"\xa3\xed\xa0\x80",
            duplicate_key=b"\x82\xa2op\xa3get\xa2op\xa3put",
            keys_out_of_order=b"\x82\xa1b\x01\xa1a\x01",
            key_of_bytes=b"\x81\xc4\x01a\x01",
            key_of_a_number=b"\x81\x01\x01",
            trailing_byte=b"\x90\x00",
            truncated=b"\x92\x01",
            list_claims_too_much=b"\xdd\xff\xff\xff\xff",
            seven_levels=b"\x91" * 7 + b"\x01",
        ),
    }


def content_ids() -> dict[str, Any]:
    good = reference.content_id(D)
    return {
        "good": [
            {"digest": name.hex(), "text": reference.content_id(name)}
            for name in (bytes(32), D, b"\xff" * 32, digest(b""))
        ],
        "bad": [
            {"name": name, "text": text, "error": "UnknownReference"}
            for name, text in {
                "nothing": "",
                "one short": good[:-1],
                "one long": good + "a",
                "capitals": good.upper(),
                "stray bit": good[:-1] + chr(ord(good[-1]) + 1),
                "identity hash": "bafkqaaa",
                "sha2-256": "bafkreib5aqjzwiv5mbdcvcxbzeq3xpb7tjwmvizjnk7fnrv7bsszfvpyli",
                "version 0": "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n",
            }.items()
        ],
    }


def chunking() -> list[dict[str, Any]]:
    random = [["random", "a", 400_000]]
    weights = ["random", "w", 2_500_000]  # tensors: 64 Ki, 1 Mi + 1, three small ones, 1.4 MB
    sizes = {"a": 65_536, "b": 1_048_577, "c": 100, "d": 65_535, "e": 5_000, "f": 1_315_252}
    header = safetensors_header(sizes, format="pt")
    two, few = safetensors_header({"a": 40_000, "b": 30_000}), ["random", "w", 70_000]
    gap = two.replace(b"[0,40000]", b"[1,40000]")
    twice = two.replace(b'"b":', b'"a":')
    small = {f"norm.{number}": 60_000 for number in range(20)}
    offsets = [0, 65_536, 65_536 + 32, 70_016, 1_500_032]
    words = gguf_text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3)
    words += b"".join(map(gguf_text, (b"a", b"", b"\xe2\x96\x81the")))
    scores = gguf_text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, 3) + bytes(12)
    name = gguf_text(b"general.name") + struct.pack("<I", 8) + gguf_text(b"example")
    pairs = (name, words, scores)
    cases: dict[str, Recipe] = {
        "empty": [],
        "one byte": [["hex", "00"]],
        "the largest single chunk": [["random", "s", 65_536]],
        "one byte more": [["random", "s", 65_537]],
        "random": random,
        "random with a byte in front": [["hex", "2a"], *random],
        "random with 1,000 bytes in the middle": [
            ["random", "a", 200_000],
            ["random", "new", 1_000],
            ["random", "b", 200_001],
        ],
        "zeros": [["zeros", 200_001]],
        "a short period": [["repeat", "0102030405060708090a0b", 20_000]],
        "text": [["repeat", b"All models are wrong, but some are useful.\n".hex(), 5_000]],
        "an odd end": [["random", "odd", 65_536 + 4_097]],
        "safetensors": [["hex", header.hex()], weights],
        "safetensors, small tensors joined to at most 1 MiB": [
            ["hex", safetensors_header(small).hex()],
            ["random", "n", 1_200_000],
        ],
        "safetensors with a hole": [["hex", gap.hex()], few],
        "safetensors with bytes behind": [["hex", two.hex()], few, ["zeros", 1]],
        "safetensors with a name twice": [["hex", twice.hex()], few],
        "safetensors with a blank in front": [
            ["hex", raw_safetensors_header(b" " + two[8:]).hex()],
            few,
        ],
        "safetensors that nests": [
            ["hex", raw_safetensors_header(b'{"a":' + b"[" * 50 + b"]" * 50 + b"}").hex()],
            ["random", "x", 70_000],
        ],
        "gguf": [["hex", gguf_header(offsets, pairs).hex()], ["random", "g", 1_600_000]],
        "gguf of version 2, aligned to 64": [
            ["hex", gguf_header([0, 64_000], (gguf_alignment(64),), version=2, alignment=64).hex()],
            ["random", "g", 130_000],
        ],
        "gguf of version 1": [
            ["hex", gguf_header([0, 64], pairs, version=1).hex()],
            ["random", "g", 70_000],
        ],
        "gguf aligned to 0": [
            ["hex", gguf_header([0], (gguf_alignment(0),)).hex()],
            ["random", "g", 70_000],
        ],
        "gguf aligned to 3": [
            ["hex", gguf_header([0], (gguf_alignment(3),)).hex()],
            ["random", "g", 70_000],
        ],
        "gguf with an offset beyond its end": [
            ["hex", gguf_header([0, 1 << 40]).hex()],
            ["random", "g", 70_000],
        ],
        "gguf with two tensors at one place": [
            ["hex", gguf_header([0, 32, 32]).hex()],
            ["random", "g", 70_000],
        ],
    }
    return [{"name": name, "content": recipe} | cut(recipe) for name, recipe in cases.items()]


def cut(recipe: Recipe) -> dict[str, Any]:
    """How the reference cuts and names a file."""
    data = material(recipe)
    rule, lengths = reference.cut(data)
    (size, whole, name, _), own = reference.file_documents(data)
    return {
        "size": size,
        "sha256": whole.hex(),
        "rule": rule,
        "lengths": lengths,
        "object": name.hex(),
        "record": own[-1].hex() if own else None,
    }


def segments() -> list[dict[str, Any]]:
    """Chunk lists: chunk i has the digest of its number as 8 bytes, and the length 1 + i % 999."""
    found = []
    for first, count in ((0, 1), (0, 2_048), (0, 2_049), (0, 30_000), (1, 30_000), (7_777, 30_000)):
        names = [digest(i.to_bytes(8, "big")) for i in range(first, first + count)]
        counts = reference.segment_counts(names)
        lengths = [1 + i % 999 for i in range(first, first + count)]
        head = reference.segment(names[: counts[0]], lengths[: counts[0]])
        row = {"first": first, "count": count, "counts": counts, "digest": digest(head).hex()}
        found.append(row)
    same = reference.segment_counts([D] * 20_000)
    return [*found, {"all_digests": D.hex(), "count": 20_000, "counts": same}]


def documents() -> dict[str, Any]:
    record = {
        "type": "p2phub/object",
        "v": 1,
        "rule": "cdc-16k/1",
        "size": 100_000,
        "sha256": E,
        "segments": [[D, 321, 7, 100_000]],
    }
    page = {
        "type": "p2phub/files",
        "v": 1,
        "files": [
            ["README.md", 5, E, D, 1],
            ["data/empty", 0, E, digest(b""), 0],
            ["data/große.bin", 100_000, E, D, 7],
        ],
    }
    root = {
        "type": "p2phub/manifest",
        "v": 1,
        "kind": "model",
        "license": "Apache-2.0",
        "card": "README.md",
        "tags": ["text-generation", "gguf"],
        "base": ["p2phub://bciq/llama"],
        "datasets": [],
        "pages": [[D, 400, 3, 100_005]],
    }
    piece = {
        "type": "p2phub/segment",
        "v": 1,
        "digests": D + E,
        "lengths": bytes.fromhex("0000100000010000"),
    }
    good = {"object": record, "file page": page, "manifest": root, "segment": piece}
    return {
        "good": [
            {
                "kind": kind,
                "value": shown(value),
                "hex": reference.encode(value).hex(),
                "digest": digest(reference.encode(value)).hex(),
            }
            for kind, value in good.items()
        ],
        "bad": [
            {
                "kind": kind,
                "name": name,
                "hex": reference.encode(good[kind] | change).hex(),
                "error": error,
            }
            for kind, name, change, error in BAD_DOCUMENTS
        ],
        "collisions": [
            {"paths": paths, "error": "HostilePath"}
            for paths in (
                ["Model.bin", "model.bin"],
                ["A/x", "a/y"],
                ["Fu\u00df", "FUSS"],
                ["\ufb01le", "file"],
                ["a", "a/b"],
                ["A", "a/b"],
            )
        ],
    }


def releases() -> list[dict[str, Any]]:
    terms = {"kind": "model", "license": "MIT", "tags": [], "base": [], "datasets": []}
    small: dict[str, Recipe] = {
        "README.md": [["text", "# A model\n"]],
        "weights.safetensors": [
            ["hex", safetensors_header({"a": 70_000, "b": 70_000}).hex()],
            ["random", "r", 140_000],
        ],
        "tokenizer/vocab.txt": [["repeat", "776f72640a", 30_000]],
        "empty": [],
    }
    many: dict[str, Recipe] = {
        f"data/{number // 100:03}/{number:05}.txt": [["text", str(number)]]
        for number in range(3_000)
    }
    found = []
    for name, files, card, listed in (
        ("a small model", small, "README.md", True),
        ("3,000 files data/NNN/NNNNN.txt, each with its number as text", many, "", False),
    ):
        content = {path: material(recipe) for path, recipe in files.items()}
        made = reference.release_documents(content, terms | {"card": card})
        counts = reference.page_counts(sorted(files, key=lambda path: path.encode()))
        found.append(
            {
                "name": name,
                "files": files if listed else {},
                "terms": terms | {"card": card},
                "documents": len(made),
                "page_counts": counts,
                "manifest": made[-1].hex(),
                "content_id": reference.content_id(digest(made[-1])),
            }
        )
    return found


def messages() -> dict[str, Any]:
    good: dict[str, list[Any]] = {
        "hello": ["hello", "p2phub/1.0", 16],
        "join": ["join", D],
        "peers": ["peers", D, [["12D3KooWExample", ["/ip4/192.0.2.1/tcp/4001"]], ["x", []]]],
        "ask": ["ask", [D, E]],
        "have": ["have", D, b"\xf0\x80"],
        "have: page not held": ["have", D, b""],
        "delta": ["delta", D, b"\x00\x01\x3f\xff"],
        "request": ["request", 7, [[D, 0, 4], [E, 100, 101]]],
        "cancel": ["cancel", 7],
        "reject": ["reject", (1 << 32) - 1, 2],
        "choke": ["choke"],
        "unchoke": ["unchoke"],
        "offer": ["offer", D, 3, 9],
        "lane wanted": ["lane?"],
        "lane ticket": ["ticket", D, E, 4002],
        "lane refused": ["no-lane"],
        "bye": ["bye", 1],
    }
    wrong: dict[str, Any] = {
        "unknown": ["frobnicate"],
        "no list": {"choke": True},
        "a field too many": ["choke", 1],
        "a number too large": ["cancel", 1 << 32],
        "a boolean": ["cancel", True],
        "a short digest": ["join", D[:31]],
        "a run of nothing": ["request", 1, [[D, 5, 5]]],
        "no run": ["request", 1, []],
        "too many chunks": ["request", 1, [[D, 0, 8192], [D, 0, 1]]],
        "a delta beyond any page": ["delta", D, b"\x40\x00"],
        "no page": ["ask", []],
        "a text that moves the cursor": ["hello", "\x1b[2J", 1],
    }
    return {
        "good": [
            {"name": name, "value": shown(value), "hex": reference.encode(value).hex()}
            for name, value in good.items()
        ],
        "bad": [
            {"name": name, "hex": reference.encode(value).hex(), "error": "ProtocolViolation"}
            for name, value in wrong.items()
        ],
    }


def byte_channel() -> dict[str, Any]:
    headers = [(0, 0, 1), (7, 12, 1 << 20), ((1 << 32) - 1, 8191, 0xFFFFFFFF)]
    return {
        "good": [
            {
                "request_id": request_id,
                "first_chunk": first,
                "length": length,
                "hex": struct.pack(">III", request_id, first, length).hex(),
            }
            for request_id, first, length in headers
        ],
        "bad": bad(
            "ProtocolViolation",
            no_bytes=struct.pack(">III", 1, 0, 0),
            more_than_a_mebibyte=struct.pack(">III", 1, 0, (1 << 20) + 1),
            a_chunk_beyond_any_span=struct.pack(">III", 1, 8192, 1),
        ),
    }


def fetch() -> dict[str, Any]:
    publisher = "b" + base64.b32encode(b"\x12\x20" + D).decode().rstrip("=").lower()
    good: dict[str, list[Any]] = {
        "chunks": ["chunks", [D, E]],
        "metadata": ["meta", publisher, "timestamp.json"],
        "metadata of a version": ["meta", publisher, "12.Qwen2.5-7B.json"],
    }
    wrong: dict[str, list[Any]] = {
        "no chunk": ["chunks", []],
        "too many chunks": ["chunks", [D] * 257],
        "a short digest": ["chunks", [D[:31]]],
        "a path": ["meta", publisher, "../timestamp.json"],
        "an escaped path": ["meta", publisher, "1.a%2fb.json"],
        "no version": ["meta", publisher, "root.json"],
        "version 0": ["meta", publisher, "0.root.json"],
        "a version with a zero in front": ["meta", publisher, "01.root.json"],
        "a short publisher id": ["meta", publisher[:-1], "1.root.json"],
    }
    return {
        "good": [
            {"name": name, "value": shown(value), "hex": reference.encode(value).hex()}
            for name, value in good.items()
        ],
        "bad": [
            {"name": name, "hex": reference.encode(value).hex(), "error": "ProtocolViolation"}
            for name, value in wrong.items()
        ],
    }


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in all_vectors().items():
        (folder / name).write_text(text, encoding="ascii")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else VECTORS)
