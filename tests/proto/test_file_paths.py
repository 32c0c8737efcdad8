"""A path that some system reads in two ways is refused; what people really use passes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.errors import HostilePath
from p2phub.proto.file_paths import check_path, check_together
from p2phub.proto.limits import PATH_BYTES_MAX

GOOD = [
    "README.md",
    "model-00001-of-00163.safetensors",
    "onnx/model_quantized.onnx",
    "1_Pooling/config.json",
    "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet",
    "tokenizer/vocab (copy).txt",
    "Füße/größe.bin",
    "データ/学習.jsonl",
    ".cache/notes",
    ".hidden",
    "a+b=c,d;e&f@g#h!%.bin",
    "$HOME",
    "`id`",
    "CONSOLE.txt",
    "aux_model/com10.bin",
    "a" * 255,
    "/".join("a" * 32),
    "x.git",
    "tilde~x",
]
HOSTILE = {
    "F1 up": "../x",
    "F2 absolute": "/etc/passwd",
    "F3 up in the middle": "a/../../x",
    "F4 a drive": "C:\\x",
    "F4 a drive without a slash": "C:x",
    "F4 a share": "\\\\host\\share\\f",
    "F5 backslashes": "a\\..\\b",
    "F6 a device": "CON",
    "F6 a device with an ending": "con.txt",
    "F6 a device in a folder": "a/NUL.bin",
    "F6 a device as folder": "aux/x",
    "F6 a device with a superscript": "COM\u00b9",
    "F6 a console": "CONIN$",
    "F6 a device with a blank": "LPT9 .txt",
    "F6 a device in full width": "\uff23\uff2f\uff2e",
    "F7 a dot at the end": "f.",
    "F7 a blank at the end": "f ",
    "F7 a dot at a folder's end": "a./f",
    "F8 a stream": "f:ads",
    "F8 a stream of data": "f::$DATA",
    "F9 a zero byte": "a\x00b",
    "F9 a line break": "a\nb",
    "F9 a carriage return": "a\rb",
    "F9 an escape": "a\x1b]0;b",
    "F9 delete": "a\x7fb",
    "F9 a C1 control": "a\x9bb",
    "F10 right to left": "a\u202egnp.exe",
    "F10 zero width": "a\u200bb",
    "F10 two leaders": "\u2024\u2024",
    "F10 two leaders as a folder": "a/\u2024\u2024/b",
    "F10 a slash in full width": "a\uff0fb",
    "F10 a division slash that folds": "a\u2100b",
    "F11 git's hooks": ".git/hooks/x",
    "F11 git's folder by its short name": "GIT~1/x",
    "F11 git's folder in capitals": ".GIT",
    "F11 git's folder with a joiner": ".g\u200cit",
    "F11 git's attributes": ".gitattributes",
    "F11 git's folder in full width": "\uff0egit",
    "F11 ours": ".p2phub/x",
    "F11 ours in capitals": ".P2PHUB-part",
    "F12 256 bytes": "a" * 256,
    "F12 255 characters, 510 bytes": "ä" * 255,
    "F12 too long in all": "/".join(["a" * 200] * 6),
    "F13 33 levels": "/".join("a" * 33),
    "F16 an option": "-rf",
    "F16 an option in a folder": "a/-x",
    "F16 somebody's home": "~/x",
    "a blank at the start": " a",
    "a blank that does not break": "\u00a0",
    "a blank in full width at the end": "a\u3000",
    "an option in full width": "\uff0drf",
    "three dots in one": "a\u2026",
    "F17 nothing": "",
    "F17 here": ".",
    "F17 nothing between": "a//b",
    "F17 nothing at the end": "a/",
    "F17 here at the start": "./a",
    "F18 a lone surrogate": "a\ud800b",
    "decomposed": "u\u0308.txt",
    "private use": "a\ue000",
    "not assigned": "a\u0378",
    "a pipe": "a|b",
    "a star": "a*b",
    "a question mark": "a?b",
    "quotes": 'a"b',
    "brackets": "a<b>",
    "a short name": "PROGRA~1",
}
TOGETHER = {
    "F14 letter case": ["Model.bin", "model.bin"],
    "F14 letter case of folders": ["A/x", "a/y"],
    "letter case far up": ["data/Train/a/b/x", "data/train/a/b/y"],
    "sharp s": ["Fuß", "FUSS"],
    "a ligature": ["\ufb01le", "file"],
    "full width": ["\uff41", "a"],
    "M19 a file that is a folder": ["a", "a/b"],
    "M19 a file that is a folder, in capitals": ["A", "a/b"],
    "twice": ["a", "a"],
    "the Kelvin sign": ["k", "\u212a"],
}


@pytest.mark.parametrize("path", GOOD)
def test_a_path_that_people_use_passes(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize("path", HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_path_is_refused_and_shown_escaped(path: str) -> None:
    with pytest.raises(HostilePath) as caught:
        check_path(path)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("paths", TOGETHER.values(), ids=list(TOGETHER))
def test_paths_that_one_system_takes_for_one_are_refused(paths: list[str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(HostilePath):
            check_together(order)


def test_paths_that_differ_everywhere_pass_together() -> None:
    check_together(GOOD)
    check_together(["a/b/c", "a/b/d", "a/bc", "ab"])


def passes(path: str) -> bool:
    try:
        check_path(path)
    except HostilePath:
        return False
    return True


@given(st.lists(st.sampled_from(["con", "COM9", "nul", *"aä_-./~1 \n"]), max_size=6).map("".join))
def test_plain_paths_for_which_there_is_a_short_cut_are_judged_like_any(path: str) -> None:
    assert passes(path) == passes("a" * 250 + "/" + path)


@given(st.text(max_size=60))
def test_what_passes_stays_below_its_folder(path: str) -> None:
    try:
        check_path(path)
    except HostilePath:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert 0 < len(path.encode()) <= PATH_BYTES_MAX
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in path)
    assert "\\" not in path and ":" not in path


@given(st.lists(st.sampled_from("aAbB"), min_size=1, max_size=4).map("/".join))
def test_a_path_collides_with_its_own_capitals_alone(path: str) -> None:
    check_together([path])
    swapped = path.swapcase()
    with pytest.raises(HostilePath):
        check_together([path, swapped])
