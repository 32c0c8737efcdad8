"""Settings: every key read strictly, refused by name, the same from a file and from flags."""

from __future__ import annotations

import tomllib
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2phub.config import (
    CONFIG_BYTES_MAX,
    HostPort,
    Settings,
    about,
    parse_config,
    parse_host_port,
    parse_peer_address,
    parse_size,
    plain_value,
    setting_names,
    settings,
    toml_line,
)
from p2phub.errors import BadSetting

PEER = "12D3KooWKsh1SPM41rmGhiF4dZgN28meTkCBkZTU2ZttcKHBJsEf"


def test_nothing_written_is_the_defaults() -> None:
    assert settings() == settings("# only a comment\n") == Settings()


def test_flags_win_over_the_file() -> None:
    found = settings('gateway = "127.0.0.1:1"\nlanes = 4', {"gateway": "[::1]:0"})
    assert found.gateway == HostPort("::1", 0) and found.lanes == 4
    assert settings('gateway = "off"').gateway is None


def test_every_setting_says_what_it_is_for() -> None:
    for name in setting_names():
        assert about(name).help.endswith(".") and about(name).form
    flags = [about(name).flag for name in setting_names() if about(name).flag]
    assert len(flags) == len(set(flags)) == 6


@pytest.mark.parametrize("name", setting_names())
def test_every_default_survives_being_written_and_read(name: str) -> None:
    default = next(field.default for field in fields(Settings) if field.name == name)
    line = toml_line(name, plain_value(default))
    assert parse_config(line) == {name: default}
    assert tomllib.loads(line) == {name: plain_value(default)}


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("gatewya = 'off'", "gatewya"),
        ("[gateway]\nport = 1", "gateway"),
        ("gateway = 7777", "gateway"),
        ("gateway = '127.0.0.1'", "gateway"),
        ("gateway = '127.0.0.1:65536'", "gateway"),
        ("gateway = '127.0.0.1:80 '", "gateway"),
        ("gateway = '127.0.0.1:-1'", "gateway"),
        ("gateway = '127.0.0.1:１'", "gateway"),
        ("gateway = '::1:80'", "gateway"),
        ("gateway = '[127.0.0.1]:80'", "gateway"),
        ("gateway = ':80'", "gateway"),
        ("up_rate = '10 GB'", "up_rate"),
        ("up_rate = '-1'", "up_rate"),
        ("up_rate = -1", "up_rate"),
        ("up_rate = 1e400", "up_rate"),
        ("up_rate = 1.5", "up_rate"),
        ("up_rate = '9999999999T'", "up_rate"),
        ("up_rate = true", "up_rate"),
        ("mdns = 1", "mdns"),
        ("mdns = 'false'", "mdns"),
        ("lanes = 0", "lanes"),
        ("lanes = 257", "lanes"),
        ("announce = 'all'", "announce"),
        ("listen = '/ip4/0.0.0.0/tcp/1'", "listen"),
        ("listen = ['/ip4/0.0.0.0/udp/1']", "listen"),
        ("listen = ['/ip4/256.0.0.1/tcp/1']", "listen"),
        ("listen = ['/ip4/0.0.0.0/tcp/1/quic']", "listen"),
        ("listen = [1]", "listen"),
        (f"listen = {['/ip4/0.0.0.0/tcp/1'] * 65}", "listen"),
        (f"bootstrap = ['/ip4/192.0.2.1/tcp/0/p2p/{PEER}']", "bootstrap"),
        (f"bootstrap = ['/ip4/192.0.2.1/tcp/1/p2p/{PEER}x0']", "bootstrap"),
        ("bootstrap = ['/ip4/192.0.2.1/tcp/1']", "bootstrap"),
        ("gateway_hosts = ['a b']", "gateway_hosts"),
        ("log_level = 'loud'", "log_level"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(text: str, setting: str) -> None:
    with pytest.raises(BadSetting) as caught:
        settings(text)
    assert caught.value.facts["setting"] == setting and setting in str(caught.value)


@pytest.mark.parametrize("text", ["lanes = ", "lanes = 1\nlanes = 2", "\0", "=", "[" * 5000])
def test_what_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(BadSetting):
        parse_config(text)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(BadSetting):
        parse_config("# " + "x" * CONFIG_BYTES_MAX)


def test_sizes_are_powers_of_1024() -> None:
    assert [parse_size(text) for text in ("0", "500", "64K", "50M", "10G", "1T", 7)] == [
        0, 500, 64 << 10, 50 << 20, 10 << 30, 1 << 40, 7,
    ]  # fmt: skip


@given(st.one_of(st.text(max_size=80), st.integers(), st.floats(), st.booleans(), st.none()))
def test_no_value_does_more_than_be_refused(value: object) -> None:
    for parse in (parse_size, parse_host_port, parse_peer_address):
        try:
            parse(value)
        except ValueError:
            pass


def test_addresses_of_peers_are_those_that_p2phub_prints() -> None:
    for start in ("/ip4/192.0.2.1", "/ip6/2001:db8::1", "/dns/node.example.org", "/dns4/a"):
        address = f"{start}/tcp/4701/p2p/{PEER}"
        assert parse_peer_address(address) == address
