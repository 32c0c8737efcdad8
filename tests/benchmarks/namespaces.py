"""A network of its own on this machine: one network namespace for each host, all on one bridge,
each with an uplink and a downlink of a given rate.

Programs run there before others of this machine, so that its other work does not lie on the links.
Needs root, `ip` and `tc`. Nothing outside the namespaces is touched: the bridge lies in one, too.
The rates count headers, so payload moves at some 4 % less.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MBIT = 1_000_000 / 8  # bytes a second
BURST_BYTES = 128_000  # of a shaped link: 10 ms at 100 Mbit/s
NICENESS = -15
QUEUE_S = 0.1  # what a shaped link holds back before it drops


@dataclass(frozen=True)
class Host:
    """One namespace. Run programs in it with `within` before their command."""

    name: str
    address: str

    @property
    def within(self) -> tuple[str, ...]:
        return ("nice", "-n", str(NICENESS), "ip", "netns", "exec", self.name)

    @property
    def sent_bytes(self) -> int:
        """Bytes on its wire so far, headers, control and repetitions included."""
        counted = _run(*self.within, "cat", "/sys/class/net/eth/statistics/tx_bytes")
        return int(counted)


def why_not() -> str:
    """What is missing here for namespaces; empty if nothing is."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} is not installed" if missing else ""


@contextmanager
def hosts(count: int, *, up_mbit: int, down_mbit: int) -> Iterator[list[Host]]:
    """`count` hosts that reach one another; they and their network are gone after the block."""
    prefix = f"p2phub-{os.getpid()}"
    switch = f"{prefix}-switch"
    made: list[str] = []
    try:
        _run("ip", "netns", "add", switch)
        made.append(switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        found = []
        for number in range(count):
            host = Host(f"{prefix}-{number}", f"10.88.0.{number + 1}")
            _run("ip", "netns", "add", host.name)
            made.append(host.name)
            _join(host, switch, f"port{number}", up_mbit, down_mbit)
            found.append(host)
        yield found
    finally:
        for name in reversed(made):
            _run("ip", "netns", "delete", name)


def _join(host: Host, switch: str, port: str, up_mbit: int, down_mbit: int) -> None:
    _run(
        *("ip", "-n", host.name, "link", "add", "eth", "type", "veth"),
        *("peer", "name", port, "netns", switch),
    )
    _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
    _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth")
    _run("ip", "-n", host.name, "link", "set", "lo", "up")
    _run("ip", "-n", host.name, "link", "set", "eth", "up")
    _shape(host.name, "eth", up_mbit)
    _shape(switch, port, down_mbit)


def _shape(namespace: str, device: str, rate_mbit: int) -> None:
    """Let no more than a rate out of a device."""
    _run(
        *("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf"),
        *("rate", f"{rate_mbit}mbit", "burst", str(BURST_BYTES)),
        *("latency", f"{QUEUE_S * 1000:.0f}ms"),
    )


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
