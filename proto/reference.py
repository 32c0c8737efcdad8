"""The formats once more, slow and plain: what the vectors are made with, and what a second
implementation may be read beside.

It shares no code with the fast modules, only the hash functions, and takes no care of limits that
protect against strangers: it makes documents, it doesn't judge them. Numbers are written out.

Source: SPEC.md sections 2 to 5.
"""

from __future__ import annotations

import base64
import itertools
import json
import struct
from typing import Any

from p2phub.digest import digest, gear_word, sha256

KIB, MIB = 1024, 1024 * 1024


# ---- canonical msgpack (section 3) --------------------------------------------------------------


def encode(value: Any) -> bytes:
    """The one encoding of a value."""
    if value is True or value is False:
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return _encode_integer(value)
    if isinstance(value, bytes):
        return _head(len(value), ((0xFF, b"\xc4", 1), (0xFFFF, b"\xc5", 2))) + value
    if isinstance(value, str):
        text = value.encode("utf-8")
        if len(text) < 32:
            return bytes([0xA0 | len(text)]) + text
        return _head(len(text), ((0xFF, b"\xd9", 1), (0xFFFF, b"\xda", 2))) + text
    if isinstance(value, list):
        head = (
            bytes([0x90 | len(value)])
            if len(value) < 16
            else _head(len(value), ((0xFFFF, b"\xdc", 2),))
        )
        return head + b"".join(map(encode, value))
    if isinstance(value, dict):
        assert len(value) < 16
        items = sorted(value.items(), key=lambda item: item[0].encode("utf-8"))
        return bytes([0x80 | len(value)]) + b"".join(encode(k) + encode(v) for k, v in items)
    raise TypeError(type(value))


def _encode_integer(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes([value])
    if -32 <= value < 0:
        return bytes([value + 256])
    for size, positive, negative in (
        (1, 0xCC, 0xD0),
        (2, 0xCD, 0xD1),
        (4, 0xCE, 0xD2),
        (8, 0xCF, 0xD3),
    ):
        if 0 <= value < 1 << 8 * size:
            return bytes([positive]) + value.to_bytes(size, "big")
        if -(1 << 8 * size - 1) <= value < 0:
            return bytes([negative]) + value.to_bytes(size, "big", signed=True)
    raise ValueError(value)


def _head(length: int, forms: tuple[tuple[int, bytes, int], ...]) -> bytes:
    for most, first, size in forms:
        if length <= most:
            return first + length.to_bytes(size, "big")
    longest = {b"\xc4": b"\xc6", b"\xd9": b"\xdb", b"\xdc": b"\xdd"}
    return longest[forms[0][1]] + length.to_bytes(4, "big")


# ---- content ids (section 2) --------------------------------------------------------------------


def content_id(name: bytes) -> str:
    raw = bytes([0x01, 0x55, 0x1E, 0x20]) + name
    return "b" + base64.b32encode(raw).decode().rstrip("=").lower()


# ---- chunking (section 4) -----------------------------------------------------------------------

GEAR = [gear_word(byte) for byte in range(256)]
MASK_BEFORE = 0x0000D90F03530000  # up to the average: harder to meet
MASK_AFTER = 0x0000D90303530000


def cut_by_content(data: bytes) -> list[int]:
    """cdc-16k/1: the lengths of the chunks of a file of more than 64 KiB."""
    lengths = []
    start = 0
    while start < len(data):
        length = _first_cut(data[start : start + 64 * KIB])
        lengths.append(length)
        start += length
    return lengths


def _first_cut(data: bytes) -> int:
    if len(data) <= 4 * KIB:
        return len(data)
    state = 0
    for place in range(4 * KIB, len(data) // 2 * 2):
        state = (2 * state + GEAR[data[place]]) % 2**64
        mask = MASK_BEFORE if place < 16 * KIB else MASK_AFTER
        if state & mask == 0:
            return place
    return len(data)


def cut_by_tensors(header_size: int, tensor_sizes: list[int]) -> list[int]:
    """tensor-1m/1: the lengths of the chunks. A tensor's size includes the padding behind it."""
    lengths = _pieces(header_size)
    joined = 0
    for size in tensor_sizes:
        if joined and (size >= 64 * KIB or joined + size > MIB):
            lengths.append(joined)
            joined = 0
        if size < 64 * KIB:
            joined += size
        else:
            lengths += _pieces(size)
    return [*lengths, joined] if joined else lengths


def _pieces(size: int) -> list[int]:
    return [MIB] * (size // MIB) + ([size % MIB] if size % MIB else [])


def tensors(data: bytes) -> tuple[int, list[int]] | None:
    """Size of the header and of each tensor; None: cut by content instead."""
    try:
        if data[:4] == b"GGUF":
            return _gguf(data)
        return _safetensors(data)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, struct.error):
        return None


def _safetensors(data: bytes) -> tuple[int, list[int]] | None:
    size = 8 + int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or size > min(len(data), 16 * MIB):
        return None
    header = json.loads(data[8:size].decode(), object_pairs_hook=_once_each)
    header.pop("__metadata__", None)
    extents = sorted(entry["data_offsets"] for entry in header.values())
    if any(type(offset) is not int for extent in extents for offset in extent):
        return None
    extents = [(begin, end) for begin, end in extents if begin != end]
    ends = [0] + [end for _, end in extents]
    if [begin for begin, _ in extents] != ends[:-1] or size + ends[-1] != len(data):
        return None
    return size, [end - begin for begin, end in extents]


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError
    return dict(pairs)


_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def _gguf(data: bytes) -> tuple[int, list[int]] | None:
    place = 4

    def take(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + form, data, place)
        place += struct.calcsize("<" + form)
        return int(value)

    def take_text() -> bytes:
        nonlocal place
        size = take("Q")
        place += size
        return data[place - size : place]

    version, tensor_count, pair_count = take("I"), take("Q"), take("Q")
    if version not in (2, 3) or tensor_count == 0:
        return None
    alignments = []
    for _ in range(pair_count):
        key, kind = take_text(), take("I")
        if key == b"general.alignment":
            if kind != 4:
                return None
            alignments.append(take("I"))
        elif kind == 8:
            take_text()
        elif kind == 9:
            item, count = take("I"), take("Q")
            if item == 8:
                for _ in range(count):
                    take_text()
            else:
                place += count * _SCALARS[item]
        else:
            place += _SCALARS[kind]
    alignment = alignments[0] if alignments else 32
    if len(alignments) > 1 or alignment % 8 or not 0 < alignment <= MIB:
        return None
    offsets = []
    for _ in range(tensor_count):
        take_text()
        dimensions = take("I")
        if dimensions > 8:
            return None
        place += 8 * dimensions + 4
        offsets.append(take("Q"))
    start = (place + alignment - 1) // alignment * alignment
    borders = [*sorted(offsets), len(data) - start]
    sizes = [after - before for before, after in itertools.pairwise(borders)]
    if borders[0] != 0 or min(sizes) <= 0 or any(offset % alignment for offset in offsets):
        return None
    return start, sizes


def cut(data: bytes) -> tuple[str, list[int]]:
    """The rule that a file is cut by, and the lengths of its chunks."""
    if len(data) <= 64 * KIB:
        return "cdc-16k/1", [len(data)] if data else []
    found = tensors(data)
    if found is None:
        return "cdc-16k/1", cut_by_content(data)
    return "tensor-1m/1", cut_by_tensors(*found)


# ---- objects (section 4) ------------------------------------------------------------------------


def segment_counts(names: list[bytes]) -> list[int]:
    """How many chunks each segment lists."""
    counts = [0]
    for name in names:
        counts[-1] += 1
        is_border = int.from_bytes(name[:4], "big") % 4096 == 0 and counts[-1] >= 2048
        if is_border or counts[-1] == 8192:
            counts.append(0)
    return counts if counts[-1] else counts[:-1]


def segment(names: list[bytes], lengths: list[int]) -> bytes:
    packed = b"".join(length.to_bytes(4, "big") for length in lengths)
    fields = {"type": "p2phub/segment", "v": 1, "digests": b"".join(names), "lengths": packed}
    return encode(fields)


def file_documents(data: bytes) -> tuple[list[Any], list[bytes]]:
    """Of one file: size, SHA-256, object and chunk count as its record has them; its documents.

    The documents are its segments and then its object record; a file of one chunk has none.
    """
    rule, lengths = cut(data)
    names = []
    start = 0
    for length in lengths:
        names.append(digest(data[start : start + length]))
        start += length
    if len(names) < 2:
        return [len(data), sha256(data), names[0] if names else digest(b""), len(names)], []
    documents, rows = [], []
    first = 0
    for count in segment_counts(names):
        stop = first + count
        documents.append(segment(names[first:stop], lengths[first:stop]))
        covered = sum(lengths[first:stop])
        rows.append([digest(documents[-1]), len(documents[-1]), count, covered])
        first = stop
    fields = {"type": "p2phub/object", "v": 1, "rule": rule, "size": len(data)}
    record = encode(fields | {"sha256": sha256(data), "segments": rows})
    return [len(data), sha256(data), digest(record), len(names)], [*documents, record]


# ---- manifests (section 5) ----------------------------------------------------------------------


def page_counts(paths: list[str]) -> list[int]:
    """How many files each file page lists; paths in order, short enough that no page is full."""
    counts = [0]
    for path in paths:
        counts[-1] += 1
        number = int.from_bytes(digest(path.encode("utf-8"))[:4], "big")
        if (number % 2048 == 0 and counts[-1] >= 512) or counts[-1] == 8192:
            counts.append(0)
    return counts if counts[-1] else counts[:-1]


def release_documents(files: dict[str, bytes], terms: dict[str, Any]) -> list[bytes]:
    """All documents of a release: those of each file, the file pages, and last the manifest root.

    files: content by path. terms: base, card, datasets, kind, license and tags.
    """
    documents, rows = [], []
    paths = sorted(files, key=lambda path: path.encode("utf-8"))
    for path in paths:
        record, own = file_documents(files[path])
        documents += own
        rows.append([path, *record])
    pages = []
    first = 0
    for count in page_counts(paths):
        page_rows = rows[first : first + count]
        page = encode({"type": "p2phub/files", "v": 1, "files": page_rows})
        pages.append([digest(page), len(page), count, sum(row[1] for row in page_rows)])
        documents.append(page)
        first += count
    return [*documents, encode({"type": "p2phub/manifest", "v": 1, "pages": pages} | terms)]
