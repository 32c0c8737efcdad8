"""Every setting of a node: name, default, unit and help in one place; parsed strictly, from text
and flags alone.

Reads no file. A key that is not here, a value out of range or of another type is a BadSetting that
names the setting, so that a slip of the pen never runs as a default.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from p2phub.errors import BadSetting
from p2phub.proto.names import is_address

CONFIG_BYTES_MAX: Final = 256 * 1024  # of config.toml: far more than every setting written out
LIST_LENGTH_MAX: Final = 64  # entries of one list
BYTES_MAX: Final = 1 << 60  # any size or rate

_SIZE: Final = re.compile(r"([0-9]{1,18})([KMGT]?)")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PEER_ID: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{40,64}")


class HostPort(NamedTuple):
    """Where to listen. Port 0: the system chooses a free one."""

    host: str  # an IP, without brackets, or a host name
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class About:
    """What a person is told of one setting, and how its value is read."""

    parse: Callable[[object], object]  # raises ValueError with what is wrong
    form: str  # the accepted form, for help and errors
    help: str
    flag: str  # of `p2phub daemon`; "" where there is none


def _setting(
    default: Any, parse: Callable[[object], object], form: str, text: str, flag: str = ""
) -> Any:
    return field(default=default, metadata={"about": About(parse, form, text, flag)})


# ---- values --------------------------------------------------------------------------------------


def parse_size(value: object) -> int:
    """Bytes from 0 to BYTES_MAX: an int, or digits with K, M, G or T (powers of 1024).

    Raises ValueError.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        size = int(found[1]) << (10 * " KMGT".index(found[2] or " "))
    else:
        raise ValueError("is not a size such as 500, 64K, 50M or 10G")
    if not 0 <= size <= BYTES_MAX:
        raise ValueError(f"is not between 0 and {BYTES_MAX} bytes")
    return size


def parse_port(text: str) -> int:
    """A TCP port from 0 to 65535, digits only. Raises ValueError."""
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("does not hold a port from 0 to 65535")
    return int(text)


def parse_host_port(value: object) -> HostPort:
    """`127.0.0.1:7777`, `[::1]:7777` or `localhost:7777`. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError("is not text of the form HOST:PORT")
    host, colon, port = value.rpartition(":")
    if not colon:
        raise ValueError("has no port: write HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError("has brackets around something that is no IPv6 address")
        ip_address(host)
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError("does not begin with a host name or an address (IPv6 in brackets)")
    return HostPort(host, parse_port(port))


def _gateway(value: object) -> HostPort | None:
    return None if value == "off" else parse_host_port(value)


def parse_listen(value: object) -> str:
    """A multiaddr to listen on: /ip4/…/tcp/PORT or /ip6/…/tcp/PORT. Raises ValueError."""
    if not isinstance(value, str) or not is_address(value):
        raise ValueError("is not a multiaddr")
    parts = value.split("/")
    if len(parts) != 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
        raise ValueError("is not of the form /ip4/ADDRESS/tcp/PORT or /ip6/ADDRESS/tcp/PORT")
    if ip_address(parts[2]).version != int(parts[1][2]):
        raise ValueError("holds an address of the other IP version")
    return f"/{parts[1]}/{parts[2]}/tcp/{parse_port(parts[4])}"


def parse_peer_address(value: object) -> str:
    """A multiaddr of a peer, which ends in /tcp/PORT/p2p/<peer id>. Raises ValueError."""
    if not isinstance(value, str) or not is_address(value):
        raise ValueError("is not a multiaddr")
    parts = value.split("/")
    if (
        len(parts) != 7
        or parts[3] != "tcp"
        or parts[5] != "p2p"
        or not _PEER_ID.fullmatch(parts[6])
    ):
        raise ValueError("does not have the form /ip4/ADDRESS/tcp/PORT/p2p/PEER-ID")
    if parts[1] in ("ip4", "ip6"):
        if ip_address(parts[2]).version != int(parts[1][2]):
            raise ValueError("holds an address of the other IP version")
    elif parts[1] not in ("dns", "dns4", "dns6") or not _HOST_NAME.fullmatch(parts[2]):
        raise ValueError("begins with something other than /ip4, /ip6 or /dns")
    if parse_port(parts[4]) == 0:
        raise ValueError("names port 0, which nobody listens on")
    return value


def _list_of(parse: Callable[[object], object]) -> Callable[[object], object]:
    def parse_list(value: object) -> object:
        if not isinstance(value, list | tuple) or len(value) > LIST_LENGTH_MAX:
            raise ValueError(f"is not a list of at most {LIST_LENGTH_MAX}")
        return tuple(parse(entry) for entry in value)

    return parse_list


def _host_name(value: object) -> str:
    if not isinstance(value, str) or not _HOST_NAME.fullmatch(value):
        raise ValueError("is not a host name")
    return value.lower()


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def _count(low: int, high: int) -> Callable[[object], object]:
    def parse(value: object) -> int:
        number = (
            int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value
        )
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"is not a whole number from {low} to {high}")
        return number

    return parse


def _one_of(*choices: str) -> Callable[[object], object]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"is none of {', '.join(choices)}")
        return value

    return parse


# ---- the settings --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a node runs.

    Every field is a key of config.toml; flags of `p2phub daemon` win over it.
    """

    listen: tuple[str, ...] = _setting(
        ("/ip4/0.0.0.0/tcp/4701",),
        _list_of(parse_listen),
        "list of multiaddrs",
        "Where other peers connect. Port 0: any free one.",
        "--listen",
    )
    lane_listen: HostPort = _setting(
        HostPort("0.0.0.0", 4702),  # noqa: S104 - peers come from outside, each with a ticket
        parse_host_port,
        "HOST:PORT",
        "Where the bytes of a transfer come in. Port 0: any free one.",
        "--lane-listen",
    )
    bootstrap: tuple[str, ...] = _setting(
        (),
        _list_of(parse_peer_address),
        "list of multiaddrs with /p2p/PEER-ID",
        "Peers to join the network by, beside those remembered.",
        "--bootstrap",
    )
    gateway: HostPort | None = _setting(
        HostPort("127.0.0.1", 7777),
        _gateway,
        "HOST:PORT or off",
        "Where tools for the Hugging Face Hub read from (HF_ENDPOINT). Port 0: any free one.",
        "--gateway",
    )
    gateway_hosts: tuple[str, ...] = _setting(
        (),
        _list_of(_host_name),
        "list of host names",
        "Names beside localhost under which the gateway may be asked.",
    )
    mdns: bool = _setting(
        True, _truth, "true or false", "Find peers on the local network.", "--no-mdns"
    )
    announce: str = _setting(
        "objects",
        _one_of("releases", "objects", "chunks"),
        "releases, objects or chunks",
        "What the network is told of: releases; also large files; or all chunks, within a budget.",
    )
    down_rate: int = _setting(
        0, parse_size, "bytes a second, such as 50M; 0: no limit", "Download limit over all peers."
    )
    up_rate: int = _setting(
        0, parse_size, "bytes a second, such as 10M; 0: no limit", "Upload limit over all peers."
    )
    store_max: int = _setting(
        0,
        parse_size,
        "bytes, such as 200G; 0: no limit",
        "What the store may take of the disk, copies in trees and your own folders not counted;"
        " the oldest unpinned releases go first.",
        "--store-max",
    )
    scrub_rate: int = _setting(
        10 << 20,
        parse_size,
        "bytes a second, such as 10M; 0: never",
        "How fast what is held is read again, once a month, to find what the disk damaged.",
    )
    lanes: int = _setting(
        32, _count(1, 256), "1 to 256", "Transfers that may run at once, each way."
    )
    log_level: str = _setting(
        "info", _one_of("debug", "info", "warning", "error"), "debug, info, warning or error",
        "How much the daemon logs.",
    )  # fmt: skip


def about(name: str) -> About:
    """What there is to say of a setting. Raises BadSetting for a name that is none."""
    for entry in fields(Settings):
        if entry.name == name:
            found = entry.metadata["about"]
            assert isinstance(found, About)
            return found
    raise BadSetting(
        f"{name[:80]!r} is not a setting; they are {', '.join(setting_names())}", setting=name[:80]
    )


def setting_names() -> tuple[str, ...]:
    return tuple(entry.name for entry in fields(Settings))


def parse_setting(name: str, value: object) -> object:
    """The value of one setting as Settings holds it.

    Raises BadSetting that says the name, the value and the form.
    """
    entry = about(name)
    try:
        return entry.parse(value)
    except ValueError as error:
        shown = repr(value)[:100]
        raise BadSetting(
            f"{name}: {shown} {error} (expected: {entry.form})", setting=name, value=shown
        ) from None


def parse_config(text: str) -> dict[str, object]:
    """The settings in the text of a config.toml, checked one by one. Raises BadSetting."""
    if len(text) > CONFIG_BYTES_MAX:
        raise BadSetting(f"config.toml is longer than {CONFIG_BYTES_MAX} characters")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"config.toml is not TOML: {error}") from None
    return {name: parse_setting(name, value) for name, value in table.items()}


def settings(config: str = "", flags: Mapping[str, object] | None = None) -> Settings:
    """Settings from the text of a config.toml, with flags (by setting name; absent ones left out)
    over it. Raises BadSetting."""
    values = parse_config(config)
    for name, value in (flags or {}).items():
        values[name] = parse_setting(name, value)
    # Each value was read by its own field's parser, which no type checker can follow.
    return Settings(**values)  # type: ignore[arg-type]


def plain_value(value: object) -> object:
    """A setting's value in JSON's and TOML's terms."""
    if isinstance(value, HostPort):
        return str(value)
    if value is None:
        return "off"
    return list(value) if isinstance(value, tuple) else value


def toml_line(name: str, value: object) -> str:
    """`name = value` as TOML.

    Every text here is free of quotes and control characters once parsed.
    """
    plain = plain_value(parse_setting(name, value))
    return f"{name} = {_toml(plain)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(entry) for entry in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
