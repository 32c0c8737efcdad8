"""Providers are hints: deduplicated, ranked, spread over networks; a liar is never asked again."""

from __future__ import annotations

from p2phub.core.discovery.providers import (
    PROBES_MAX,
    PROVIDERS_MAX,
    PROVIDERS_PER_SUBNET_MAX,
    Providers,
    Source,
)
from p2phub.core.discovery.subnets import is_local, subnet_of


def address(number: int) -> str:
    return f"/ip4/8.{number // 250}.{number % 250}.1/tcp/4001"


def test_a_peer_told_twice_is_asked_once_by_all_its_addresses() -> None:
    providers = Providers()
    providers.add("a", [address(1)], Source.DHT)
    providers.add("a", [address(2)], Source.USER)
    probes = providers.next_probes(0.0)
    assert [(probe.peer, probe.source, len(probe.addresses)) for probe in probes] == [
        ("a", Source.USER, 2)
    ]
    assert providers.next_probes(0.0) == []


def test_nearer_sources_are_asked_first_and_probes_are_bounded() -> None:
    providers = Providers()
    for number in range(20):
        providers.add(f"dht-{number}", [address(number)], Source.DHT)
    providers.add("local", ["/ip4/192.168.1.2/tcp/1"], Source.LOCAL)
    providers.add("user", [address(99)], Source.USER)
    probes = providers.next_probes(0.0)
    assert [probe.peer for probe in probes[:2]] == ["user", "local"]
    assert len(probes) == PROBES_MAX
    assert providers.next_probes(0.0) == []
    providers.on_proven("user")
    assert len(providers.next_probes(0.0)) == 1
    assert providers.proven == ("user",)


def test_one_network_cannot_crowd_out_the_others() -> None:
    providers = Providers()
    told = [
        providers.add(f"sybil-{n}", [f"/ip4/203.1.113.{n % 250}/tcp/{n}"], Source.DHT)
        for n in range(100)
    ]
    assert sum(told) == PROVIDERS_PER_SUBNET_MAX
    providers.add("honest", ["/ip4/8.8.8.8/tcp/1"], Source.DHT)
    assert "honest" in [probe.peer for probe in providers.next_probes(0.0)[:2]]
    assert providers.add("named", ["/ip4/203.1.113.9/tcp/1"], Source.USER)


def test_the_whole_is_bounded() -> None:
    providers = Providers()
    for number in range(2 * PROVIDERS_MAX):
        providers.add(f"p{number}", [address(number)], Source.DHT)
    assert providers.told_count == PROVIDERS_MAX


def test_who_failed_is_tried_later_then_forgotten_and_a_liar_never() -> None:
    providers = Providers()
    providers.add("a", [address(1)], Source.DHT)
    now = 0.0
    for _ in range(5):
        assert [probe.peer for probe in providers.next_probes(now)] == ["a"]
        providers.on_failed("a", now)
        now = providers.next_deadline() or now
    assert providers.next_deadline() is None and providers.next_probes(1e9) == []
    assert providers.add("a", [address(1)], Source.DHT)
    providers.on_lied("a")
    assert not providers.add("a", [address(1)], Source.USER)


def test_subnets_of_addresses() -> None:
    assert subnet_of("/ip4/8.8.8.8/tcp/1") == "8.8.8.0/24"
    assert subnet_of("/ip6/2001:4860:4860::8888/tcp/1") == "2001:4860:4860::/48"
    assert subnet_of("/dns4/example.org/tcp/1") == "/dns4/example.org"
    assert (
        is_local("/ip4/127.0.0.1/tcp/1")
        and is_local("/ip4/10.0.0.8/tcp/1")
        and is_local("/ip6/fe80::1/tcp/1")
    )
    assert not is_local("nonsense") and subnet_of("/ip4/999.1.1.1/tcp/1") == "/ip4/999.1.1.1/tcp/1"
