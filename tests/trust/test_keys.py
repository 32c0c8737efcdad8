"""Key files: who can read them, what opens them."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2phub.errors import BadPassphrase, BadSigningKey, UnsafeKeyFile, WrongPassphrase
from p2phub.trust.keys import KeyRole, create_key, create_keys, key_file, load_key

PASSPHRASE = "correct horse"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("home") / "keys"
    create_keys(made, PASSPHRASE)
    return made


def test_four_keys_are_made_for_four_purposes(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    public = set()
    for role in KeyRole:
        path = key_file(folder, role)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        passphrase = None if role is KeyRole.ONLINE else PASSPHRASE
        public.add(load_key(path, passphrase).public_key.keyid)
    assert len(public) == 4


def test_a_loaded_key_signs_as_the_created_one(tmp_path: Path) -> None:
    created = create_key(tmp_path, KeyRole.TARGETS, PASSPHRASE)
    loaded = load_key(key_file(tmp_path, KeyRole.TARGETS), PASSPHRASE)
    assert loaded.sign(b"data") == created.sign(b"data")


def test_only_the_online_key_is_not_encrypted(folder: Path) -> None:
    for role in KeyRole:
        encrypted = b"ENCRYPTED" in key_file(folder, role).read_bytes()
        assert encrypted is (role is not KeyRole.ONLINE)


@pytest.mark.parametrize("passphrase", ["wrong horse", "", PASSPHRASE + " ", None])
def test_a_wrong_passphrase_opens_nothing(folder: Path, passphrase: str | None) -> None:
    with pytest.raises(WrongPassphrase):
        load_key(key_file(folder, KeyRole.TARGETS), passphrase)


def test_a_short_passphrase_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadPassphrase):
        create_keys(tmp_path / "keys", "short")
    assert not (tmp_path / "keys").exists()


def test_a_passphrase_may_be_of_any_script(tmp_path: Path) -> None:
    create_key(tmp_path, KeyRole.ROOT, "пароль 密码 🔑")
    load_key(key_file(tmp_path, KeyRole.ROOT), "пароль 密码 🔑")


def test_a_key_is_never_replaced(folder: Path) -> None:
    before = key_file(folder, KeyRole.ROOT).read_bytes()
    with pytest.raises(FileExistsError):
        create_keys(folder, PASSPHRASE)
    assert key_file(folder, KeyRole.ROOT).read_bytes() == before


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    create_key(tmp_path, KeyRole.ONLINE, "")
    path = key_file(tmp_path, KeyRole.ONLINE)
    path.chmod(mode)
    with pytest.raises(UnsafeKeyFile, match="chmod 600"):
        load_key(path)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "other kind"])
def test_a_damaged_key_is_called_damaged(folder: Path, tmp_path: Path, damage: str) -> None:
    good = key_file(folder, KeyRole.ONLINE).read_bytes()
    lines = good.split(b"\n")
    curve = generate_private_key(SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        {
            "empty": b"",
            "text": b"this is no key",
            "cut": good[:60],
            "flipped": b"\n".join([lines[0], lines[1][:-8] + b"!!!!!!!!", *lines[2:]]),
            "other kind": curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        }[damage]
    )
    path.chmod(0o600)
    with pytest.raises(BadSigningKey):
        load_key(path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_openssl_opens_our_encrypted_keys(folder: Path) -> None:
    run = subprocess.run(
        ["openssl", "pkey", "-in", str(key_file(folder, KeyRole.ROOT)),
         "-passin", f"pass:{PASSPHRASE}", "-noout", "-text_pub"],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    shown = "".join(run.stdout.split()).replace(":", "")
    key = load_key(key_file(folder, KeyRole.ROOT), PASSPHRASE).public_key
    assert key.keyval["public"] in shown
