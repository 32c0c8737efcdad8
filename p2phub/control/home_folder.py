"""A home folder on disk: made and checked, locked by its daemon, its config.toml read and
edited.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from p2phub.config import CONFIG_BYTES_MAX, Settings, about, parse_config, settings, toml_line
from p2phub.durable import failures, write_durably
from p2phub.errors import BadSetting, DaemonAlreadyRunning
from p2phub.paths import Home


def prepare_home(home: Home) -> None:
    """Make the folder, for its owner alone.

    Raises BadSetting for one that is not, or not ours to close.

    An open folder is closed only where it is empty or holds a node already: `--home /tmp` must not
    lock everybody out of it.
    """
    root = home.root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = root.stat()
        if status.st_uid != os.geteuid():
            raise BadSetting(
                f"{root} belongs to another user: choose another --home", path=str(root)
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            ours = home.lock.exists() or home.config.exists() or home.keys.exists()
            if not ours and any(root.iterdir()):
                raise BadSetting(
                    f"{root} is open to other users and holds other files: choose another --home, "
                    f"or run chmod 700 {root}",
                    path=str(root),
                )
            root.chmod(0o700)
    except OSError as error:
        raise BadSetting(
            f"{root} cannot be used as a home folder: {error.strerror}", path=str(root)
        ) from error


def lock_home(home: Home) -> int:
    """Take the home for this process until it ends; the descriptor that holds the lock.

    Raises DaemonAlreadyRunning with the other's process id, StoreFull, StoreFailed.
    """
    with failures(home.lock):
        descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise DaemonAlreadyRunning(
            f"process {other} already runs a daemon on {home.root}: stop it first, "
            "or give this one its own --home",
            home=str(home.root),
            pid=int(other) if other.isdigit() else None,
        ) from None
    with suppress(OSError):  # a full disk: whom it tells of us will miss the number
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
    return descriptor


def read_config(path: Path) -> str:
    """The text of a config.toml, or "" where there is none.

    Raises BadSetting where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(CONFIG_BYTES_MAX + 1).decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise BadSetting(f"{path} is not UTF-8 text", path=str(path)) from None
    except OSError as error:
        raise BadSetting(f"{path} cannot be read: {error.strerror}", path=str(path)) from error


def read_settings(home: Home, flags: Mapping[str, object] | None = None) -> Settings:
    """A home's settings, flags over its config.toml over the defaults. Raises BadSetting."""
    return settings(read_config(home.config), flags)


def with_setting(text: str, name: str, value: object | None) -> str:
    """A config.toml's text with one setting written (or, for None, taken out). Raises BadSetting.

    A setting spread over several lines is refused rather than guessed at.
    """
    about(name)
    pattern = re.compile(rf"^[ \t]*{re.escape(name)}[ \t]*=.*\n?", re.MULTILINE)
    line = "" if value is None else toml_line(name, value) + "\n"
    found = pattern.search(text)
    if found:
        edited = text[: found.start()] + line + text[found.end() :]
    else:
        edited = line + text if line else text  # In front: never inside a table that follows.
    before, after = parse_config(text), parse_config(edited)
    before.pop(name, None)
    if {key: kept for key, kept in after.items() if key != name} != before:
        raise BadSetting(
            f"{name} cannot be changed by this command: edit config.toml by hand", setting=name
        )
    return edited


def write_setting(home: Home, name: str, value: object | None) -> None:
    """Write or remove one setting, all or nothing. Raises BadSetting."""
    edited = with_setting(read_config(home.config), name, value)
    prepare_home(home)
    write_durably(home.config, edited.encode())
