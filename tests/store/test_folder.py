"""What can be published is found without following links; what cannot is refused or said."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from p2phub.errors import HostilePath, UnpublishableFile
from p2phub.store.folder import list_folder


def paths(folder: Path) -> list[str]:
    return [file.path for file in list_folder(folder).files]


def test_files_are_listed_in_order_of_their_bytes(tmp_path: Path) -> None:
    for name in ("b", "B", "a/z", "a.txt", "ä", "a/0"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "B").unlink()
    assert paths(tmp_path) == ["a.txt", "a/0", "a/z", "b", "ä"]


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list_folder(tmp_path / "link").folder == (tmp_path / "real").resolve()
    assert paths(tmp_path / "link") == ["a"]


@pytest.mark.parametrize("target", ["a", "nowhere", "..", "/etc/passwd"])
def test_a_link_is_refused_by_name(tmp_path: Path, target: str) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UnpublishableFile) as caught:
        list_folder(tmp_path)
    assert "'link' is a symbolic link" in str(caught.value)


def test_of_a_snapshot_in_the_hubs_cache_the_refusal_names_the_command(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name/snapshots/0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--name/blobs").mkdir()
    (snapshot / "config.json").symlink_to("../../blobs/ab")
    with pytest.raises(UnpublishableFile, match="p2phub import hf ORG/NAME"):
        list_folder(snapshot)


def test_a_linked_folder_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/loop").symlink_to(tmp_path)
    with pytest.raises(UnpublishableFile):
        list_folder(tmp_path)


def test_f20_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnpublishableFile, match="a named pipe"):
        list_folder(tmp_path)


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(UnpublishableFile, match="a socket"):
            list_folder(tmp_path)


@pytest.mark.parametrize(
    "name", [b"aux.txt", b"a\nb", b"C:x", b"-rf", b"a~1", b"\xff\xfe", "u\u0308".encode(), b"a "]
)
def test_a_hostile_name_is_refused(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    with pytest.raises(HostilePath):
        list_folder(tmp_path)


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "Model.bin").write_bytes(b"1")
    (tmp_path / "model.bin").write_bytes(b"2")
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("this file system takes the two for one")
    with pytest.raises(HostilePath):
        list_folder(tmp_path)


def test_what_git_and_hugging_face_keep_is_passed_over_and_said(tmp_path: Path) -> None:
    for name in (
        "model.bin",
        ".gitattributes",
        ".git/config",
        "sub/.gitignore",
        ".cache/huggingface/download/model.bin.lock",
        ".cache/mine.txt",
        ".p2phub-part/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    listing = list_folder(tmp_path)
    assert [file.path for file in listing.files] == [".cache/mine.txt", "model.bin"]
    assert {item.path for item in listing.passed_over} == {
        ".git",
        ".gitattributes",
        ".p2phub-part",
        ".cache/huggingface",
        "sub/.gitignore",
    }
    assert all(item.reason for item in listing.passed_over)


def test_a_folder_too_deep_is_refused_and_not_walked_forever(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(40):
        deep = deep / "a"
        deep.mkdir()
    (deep / "x").write_bytes(b"1")
    with pytest.raises(HostilePath):
        list_folder(tmp_path)
