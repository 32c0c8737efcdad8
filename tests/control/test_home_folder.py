"""A home on disk: made for its owner alone, locked by one daemon, its settings edited with care."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from p2phub.control.home_folder import (
    lock_home,
    prepare_home,
    read_settings,
    with_setting,
    write_setting,
)
from p2phub.errors import BadSetting, DaemonAlreadyRunning, StoreFailed
from p2phub.paths import Home


def test_a_new_home_is_for_its_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    prepare_home(home)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    prepare_home(home)


def test_an_open_home_is_closed_only_if_nobody_else_uses_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir(mode=0o755)
    prepare_home(home)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    home.root.chmod(0o755)
    (home.root / "other").touch()
    with pytest.raises(BadSetting):
        prepare_home(home)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o755
    home.config.touch()
    prepare_home(home)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700


def test_a_file_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting):
        prepare_home(Home(tmp_path / "file" / "home"))


def test_a_locked_home_names_the_process_that_has_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    lock = lock_home(home)
    with pytest.raises(DaemonAlreadyRunning) as caught:
        lock_home(home)
    assert caught.value.facts["pid"] == os.getpid()
    os.close(lock)
    os.close(lock_home(home))


def test_editing_one_setting_leaves_all_else(tmp_path: Path) -> None:
    text = "# mine\nlanes = 8 # few\n\nmdns = false\n"
    assert with_setting(text, "lanes", "9") == "# mine\nlanes = 9\n\nmdns = false\n"
    assert with_setting(text, "lanes", None) == "# mine\n\nmdns = false\n"
    added = with_setting(text, "gateway", "off")
    assert added.endswith(text) and added.startswith('gateway = "off"\n')
    assert with_setting("", "lanes", None) == ""


def test_a_setting_over_several_lines_is_not_guessed_at() -> None:
    with pytest.raises(BadSetting):
        with_setting(
            'listen = [\n  "/ip4/127.0.0.1/tcp/1",\n]\n', "listen", ["/ip4/127.0.0.1/tcp/2"]
        )


def test_a_refused_value_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    write_setting(home, "lanes", "9")
    for name, value in (("lanes", "0"), ("nope", "1")):
        with pytest.raises(BadSetting):
            write_setting(home, name, value)
    assert home.config.read_text() == "lanes = 9\n"
    assert read_settings(home).lanes == 9
    assert [path.name for path in home.root.iterdir()] == ["config.toml"]


def test_a_config_that_is_no_text_is_said(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.config.write_bytes(b"\xff\xfe")
    with pytest.raises(BadSetting):
        read_settings(home)


def test_a_home_whose_disk_refuses_the_lock_is_an_error_that_names_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lock.mkdir()
    with pytest.raises(StoreFailed) as refused:
        lock_home(home)
    assert str(home.lock) in str(refused.value)
