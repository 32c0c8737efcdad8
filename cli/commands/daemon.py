"""`p2phub daemon`: this process becomes the daemon."""

from __future__ import annotations

import os
import sys

import click

from p2phub.cli.options import Invocation, common, invocation
from p2phub.config import about


@click.command()
@click.option("--listen", metavar="MULTIADDR", multiple=True, help=about("listen").help)
@click.option("--lane-listen", metavar="HOST:PORT", help=about("lane_listen").help)
@click.option("--bootstrap", metavar="MULTIADDR", multiple=True, help=about("bootstrap").help)
@click.option("--gateway", metavar="HOST:PORT", help=about("gateway").help + " `off` for none.")
@click.option("--store-max", metavar="SIZE", help=about("store_max").help)
@click.option("--no-mdns", is_flag=True, help="Do not look for peers on the local network.")
@common
@invocation
def daemon(
    run: Invocation,
    listen: tuple[str, ...],
    lane_listen: str | None,
    bootstrap: tuple[str, ...],
    gateway: str | None,
    store_max: str | None,
    no_mdns: bool,
) -> None:
    """Run a node until Ctrl-C.

    Prints one line when it serves: ready, its address, the gateway's url. Options win over the
    settings of `p2phub config`.
    """
    # -P: a file trio.py in the folder where this was typed must not be taken for the library.
    arguments = [sys.executable, "-P", "-m", "p2phub.daemon", "--home", str(run.home.root)]
    for flag, values in (
        ("--listen", listen),
        ("--bootstrap", bootstrap),
        ("--lane-listen", (lane_listen,)),
        ("--gateway", (gateway,)),
        ("--store-max", (store_max,)),
    ):
        for value in values:
            if value is not None:
                arguments += [flag, value]
    if no_mdns:
        arguments.append("--no-mdns")
    if run.json:
        arguments.append("--json")
    os.execv(sys.executable, arguments)
