"""The peer key on disk: made once, kept private, never replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2phub.errors import BadSetting, UnsafeKeyFile
from p2phub.net.identity import identity_from_seed, load_or_create_identity


def test_a_key_is_made_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "home" / "identity.key"
    first = load_or_create_identity(path)
    assert load_or_create_identity(path).peer_id == first.peer_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_bytes()) == 32
    assert [entry.name for entry in path.parent.iterdir()] == ["identity.key"]
    assert first.peer_id.startswith("12D3Koo")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    load_or_create_identity(path)
    path.chmod(mode)
    with pytest.raises(UnsafeKeyFile, match="chmod 600"):
        load_or_create_identity(path)


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_file_that_is_no_key_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BadSetting):
        load_or_create_identity(path)
    assert path.read_bytes() == content


def test_a_link_to_somewhere_else_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    load_or_create_identity(target)
    path = tmp_path / "identity.key"
    path.symlink_to(target)
    with pytest.raises(UnsafeKeyFile):
        load_or_create_identity(path)


def test_the_peer_id_follows_from_the_key() -> None:
    assert identity_from_seed(bytes(32)).peer_id == identity_from_seed(bytes(32)).peer_id
    assert identity_from_seed(bytes(32)).peer_id != identity_from_seed(os.urandom(32)).peer_id
    with pytest.raises(BadSetting):
        identity_from_seed(b"short")
