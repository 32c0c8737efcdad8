"""config.toml: read for the daemon, and edited one line at a time for `p2phub config`, comments
left as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from p2phub.config import CONFIG_BYTES_MAX, Settings, about, parse_config, settings, toml_line
from p2phub.errors import BadSetting
from p2phub.paths import Home


def read_config(path: Path) -> str:
    """The text of a config.toml, or "" where there is none. Raises BadSetting where it cannot be
    read."""
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
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = home.config.with_name(home.config.name + ".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(edited)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(home.config)
