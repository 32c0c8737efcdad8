"""`p2phub peers`, `connect` and `bootstrap`."""

from __future__ import annotations

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.cli.render import note, out, out_json, table
from p2phub.display import size_text, visible


@click.command()
@common
@invocation
def peers(run: Invocation) -> None:
    """List connected peers and what passed between them and this node."""
    with run.connect() as daemon:
        rows = daemon.call("peers")
    if run.json:
        out_json(rows)
        return
    if not rows:
        note("no peers are connected; see `p2phub connect` and `p2phub bootstrap`")
        return
    out(
        table(
            [
                (
                    row["peer_id"],
                    (row["addresses"] or ["?"])[0],
                    row["direction"],
                    size_text(row["received_bytes"]),
                    size_text(row["sent_bytes"]),
                    row["downloads"],
                )
                for row in rows
            ],
            ("peer", "address", "dir", "received", "sent", "downloads"),
            right=(3, 4, 5),
        )
    )


@click.command()
@click.argument("address", metavar="MULTIADDR")
@common
@invocation
def connect(run: Invocation, address: str) -> None:
    """Connect to a peer: /ip4/ADDRESS/tcp/PORT/p2p/PEER-ID."""
    with run.connect() as daemon:
        peer = daemon.call("connect", address=address)
    if run.json:
        out_json(peer)
    else:
        out(f"connected to {visible(peer['peer_id'])}")


@click.group()
@common
def bootstrap() -> None:
    """Peers to join the network by. None is built in: every link carries peers."""


@bootstrap.command("ls")
@common
@invocation
def bootstrap_ls(run: Invocation) -> None:
    """List them."""
    with run.connect() as daemon:
        _show(run, daemon.call("bootstrap_list"))


@bootstrap.command("add")
@click.argument("address", metavar="MULTIADDR")
@common
@invocation
def bootstrap_add(run: Invocation, address: str) -> None:
    """Add one, for this and later starts."""
    with run.connect() as daemon:
        _show(run, daemon.call("bootstrap_add", address=address))


@bootstrap.command("rm")
@click.argument("address", metavar="MULTIADDR")
@common
@invocation
def bootstrap_rm(run: Invocation, address: str) -> None:
    """Remove one."""
    with run.connect() as daemon:
        _show(run, daemon.call("bootstrap_remove", address=address))


def _show(run: Invocation, addresses: list[str]) -> None:
    if run.json:
        out_json(addresses)
    else:
        for address in addresses:
            out(visible(address))
